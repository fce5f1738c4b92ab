//! Test only (feature `seeded-bugs`, never in the product build): two classic mistakes that `cargo xtask chaos --bugs` must find.

use std::collections::BTreeSet;

use ports::ViewBatch;

use super::pool::PostgresServer;

/// A mistake, chosen by whoever makes the server's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// Positions are taken from the last one seen, without the lock that makes that the last one there is.
    NoLock,
    /// The checkpoint is committed before the rows it stands for.
    CheckpointBeforeView,
}

/// Between the last position seen and the next one taken, so that a few rounds of chaos meet what a longer run would.
const SLOW: &str = "head := coalesce(head, 0); PERFORM pg_sleep(0.002);";

/// The append functions as they are, but for their lock, and the table without the constraint that is the lock's second line.
pub(super) fn append_without_lock(server: &PostgresServer) -> Option<String> {
    let functions = [
        (
            include_str!("../../migrations/postgres/log/0002_append.sql"),
            "PERFORM pg_advisory_xact_lock(7161131779257103137);",
        ),
        (
            include_str!("../../migrations/postgres/log/0004_accept.sql"),
            "locked := pg_advisory_xact_lock(7161131779257103137) IS NULL;",
        ),
    ];
    let unlocked = functions.map(|(ours, lock)| {
        debug_assert!(ours.contains(lock));
        let function = ours.replace(lock, "").replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION");
        let function = function.replace("head := coalesce(head, 0);", SLOW);
        function.replace("DROP CONSTRAINT", "DROP CONSTRAINT IF EXISTS")
    });
    let constraint = "ALTER TABLE events DROP CONSTRAINT IF EXISTS events_position_key;
        CREATE INDEX IF NOT EXISTS events_by_position ON events (position);";
    (server.bug == Some(SeededBug::NoLock)).then(|| format!("{constraint}\n{}", unlocked.join("\n")))
}

/// The two steps of a batch that should be one: first its checkpoint alone, then its rows where that checkpoint stands.
pub(super) fn checkpoint_then_rows<'a>(batch: &ViewBatch<'a>) -> [ViewBatch<'a>; 2] {
    let checkpoint = ViewBatch { changes: Vec::new(), tags: BTreeSet::new(), parking: Vec::new(), ..batch.clone() };
    let rows = ViewBatch { from: batch.to.position, ..batch.clone() };
    [checkpoint, rows]
}
