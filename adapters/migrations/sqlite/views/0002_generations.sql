-- What a generation is for; `live` stays, because everybody asks for it. `passing` never outlives a transaction.
ALTER TABLE view_heads ADD COLUMN standing text NOT NULL DEFAULT 'live'
    CHECK (standing IN ('building', 'ready', 'live', 'standby', 'passing'));
CREATE UNIQUE INDEX one_generation_a_standing ON view_heads (model, standing);

-- How far each part of a generation that is being built has got.
CREATE TABLE view_parts (
    model      text    NOT NULL,
    generation integer NOT NULL,
    number     integer NOT NULL,
    -- The rows of the streams up to this id, or of the events up to this position, are there.
    stream     text    NOT NULL DEFAULT '',
    position   integer NOT NULL DEFAULT 0,
    finished   integer NOT NULL DEFAULT 0,
    events     integer NOT NULL DEFAULT 0,
    "rows"     integer NOT NULL DEFAULT 0,
    PRIMARY KEY (model, generation, number),
    FOREIGN KEY (model, generation) REFERENCES view_heads ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Models that nobody may lead until an operator says so.
CREATE TABLE view_pauses (
    model text PRIMARY KEY NOT NULL
) STRICT, WITHOUT ROWID;
