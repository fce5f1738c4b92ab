-- Heads of all generations of all read models; one generation of a model is live.
CREATE TABLE view_heads (
    model         text    NOT NULL,
    generation    integer NOT NULL,
    fold_version  integer NOT NULL,
    -- The fields of the generation's table, so that a changed declaration is noticed.
    shape         text    NOT NULL,
    live          integer NOT NULL,
    term          integer NOT NULL DEFAULT 0,
    revision      integer NOT NULL DEFAULT 0,
    oldest_change integer NOT NULL DEFAULT 1,
    incarnation   text    NOT NULL,
    position      integer NOT NULL DEFAULT 0,
    event_id      text,
    PRIMARY KEY (model, generation)
) STRICT;
CREATE UNIQUE INDEX one_live_generation ON view_heads (model) WHERE live;

-- What changed with each revision; tags are a JSON array.
CREATE TABLE view_changes (
    model      text    NOT NULL,
    generation integer NOT NULL,
    revision   integer NOT NULL,
    tags       text    NOT NULL,
    PRIMARY KEY (model, generation, revision)
) STRICT, WITHOUT ROWID;
