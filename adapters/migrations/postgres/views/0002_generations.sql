-- What a generation is for; `live` stays, because everybody asks for it. `passing` never outlives a transaction.
ALTER TABLE view_heads ADD COLUMN standing text NOT NULL DEFAULT 'live'
    CHECK (standing IN ('building', 'ready', 'live', 'standby', 'passing'));
ALTER TABLE view_heads ADD CHECK (live = (standing = 'live'));
CREATE UNIQUE INDEX one_generation_a_standing ON view_heads (model, standing);

-- How far each part of a generation that is being built has got.
CREATE TABLE view_parts (
    model      text    NOT NULL,
    generation bigint  NOT NULL,
    number     int     NOT NULL,
    -- The rows of the streams up to this id, or of the events up to this position, are there.
    stream     text    NOT NULL DEFAULT '',
    position   bigint  NOT NULL DEFAULT 0,
    finished   boolean NOT NULL DEFAULT false,
    events     bigint  NOT NULL DEFAULT 0,
    "rows"     bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (model, generation, number),
    FOREIGN KEY (model, generation) REFERENCES view_heads ON DELETE CASCADE
);

-- Models that nobody may lead until an operator says so.
CREATE TABLE view_pauses (
    model text        PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT now()
);

-- Makes a complete generation live and the live one its standby, unless readers would go back. An earlier standby is dropped.
-- The row of the live head is locked, so its leader's next step waits and then finds its term over.
CREATE FUNCTION casitas_switch(the_model text, the_generation bigint, OUT outcome text, OUT at bigint, OUT live_at bigint)
LANGUAGE plpgsql AS $$
DECLARE
    old  view_heads%ROWTYPE;
    next view_heads%ROWTYPE;
    gone bigint;
    last bigint;
BEGIN
    PERFORM FROM view_heads WHERE model = the_model ORDER BY generation FOR UPDATE;
    SELECT * INTO old FROM view_heads WHERE model = the_model AND live;
    SELECT * INTO next FROM view_heads WHERE model = the_model AND generation = the_generation;
    at := next.position;
    live_at := old.position;
    IF old.model IS NULL OR next.model IS NULL THEN
        outcome := 'absent';
    ELSIF next.live THEN
        outcome := 'switched';
    ELSIF EXISTS (SELECT FROM view_parts WHERE model = the_model AND generation = the_generation AND NOT finished) THEN
        outcome := 'incomplete';
    -- Positions of two lives of a log cannot be compared.
    ELSIF next.position < old.position AND next.incarnation = old.incarnation THEN
        outcome := 'behind';
    ELSE
        SELECT max(term) + 1 INTO last FROM view_heads WHERE model = the_model;
        FOR gone IN SELECT generation FROM view_heads
            WHERE model = the_model AND standing = 'standby' AND generation <> the_generation
        LOOP
            PERFORM casitas_drop(the_model, gone);
        END LOOP;
        -- One after the other: at no moment two of them have one standing.
        UPDATE view_heads SET standing = 'passing' WHERE model = the_model AND generation = the_generation;
        UPDATE view_heads SET live = false, standing = 'standby', term = last
         WHERE model = the_model AND generation = old.generation;
        UPDATE view_heads SET live = true, standing = 'live', term = last
         WHERE model = the_model AND generation = the_generation;
        outcome := 'switched';
    END IF;
END $$;

-- Drops a generation with its rows, unless it is live.
CREATE FUNCTION casitas_drop(the_model text, the_generation bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM view_heads WHERE model = the_model AND generation = the_generation AND live) THEN
        RETURN 'live';
    END IF;
    DELETE FROM view_heads WHERE model = the_model AND generation = the_generation;
    IF NOT FOUND THEN
        RETURN 'absent';
    END IF;
    DELETE FROM view_changes WHERE model = the_model AND generation = the_generation;
    EXECUTE format('DROP TABLE IF EXISTS %I', 'v_' || the_model || '_' || the_generation);
    RETURN 'dropped';
END $$;
