-- Heads of all generations of all read models; one generation of a model is live.
CREATE TABLE view_heads (
    model         text    NOT NULL,
    generation    bigint  NOT NULL,
    fold_version  int     NOT NULL,
    -- The fields of the generation's table, so that a changed declaration is noticed.
    shape         text    NOT NULL,
    live          boolean NOT NULL,
    term          bigint  NOT NULL DEFAULT 0,
    revision      bigint  NOT NULL DEFAULT 0,
    oldest_change bigint  NOT NULL DEFAULT 1,
    incarnation   uuid    NOT NULL,
    position      bigint  NOT NULL DEFAULT 0,
    event_id      uuid,
    PRIMARY KEY (model, generation)
);
CREATE UNIQUE INDEX one_live_generation ON view_heads (model) WHERE live;

-- What changed with each revision.
CREATE TABLE view_changes (
    model      text   NOT NULL,
    generation bigint NOT NULL,
    revision   bigint NOT NULL,
    tags       text[] NOT NULL,
    PRIMARY KEY (model, generation, revision)
);
