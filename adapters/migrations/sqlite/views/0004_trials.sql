-- Whether a generation is built only to be compared: what is left of one when its owner was killed is of no use to anybody.
ALTER TABLE view_heads ADD COLUMN trial integer NOT NULL DEFAULT 0;
