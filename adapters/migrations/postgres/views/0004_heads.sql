-- Every step of every read model updates its head, and the text of a CHECK is parsed anew for each statement (docs/decisions/0011).
-- What they said is what the functions do that make a generation live, and an unknown standing is refused where it is read.
ALTER TABLE view_heads DROP CONSTRAINT view_heads_check;
ALTER TABLE view_heads DROP CONSTRAINT view_heads_standing_check;
