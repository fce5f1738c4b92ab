//! Who stands in the way of those who write to a log: sessions of Postgres, or processes that hold a file of an embedded store.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

use super::super::{Operator, chained};
use super::Line;

/// A command holds a file for milliseconds.
const HELD_TOO_LONG: Duration = Duration::from_secs(1);

impl Operator {
    pub(super) async fn blocked_writers(&self) -> Result<Vec<Line>> {
        let check = "writers";
        let Some(diagnosis) = &self.platform.diagnosis else {
            return Ok(self.held_files().await);
        };
        let blockers = diagnosis.blockers().await.map_err(chained)?;
        if blockers.is_empty() {
            return Ok(vec![Line::fine(check, "nobody waits for a lock")]);
        }
        let line = |blocker: adapters::postgres::Blocker| {
            let adapters::postgres::Blocker { pid, database, role, what, waiting, .. } = blocker;
            let waiting: Vec<String> = waiting.iter().map(i32::to_string).collect();
            let detail = match waiting.is_empty() {
                true => format!("process {pid} ({role}, {database}) has held the {what} for more than a second"),
                false => format!(
                    "process {pid} ({role}, {database}) has kept others from their {what} for more than a second: {}",
                    waiting.join(", ")
                ),
            };
            let next = format!(
                "psql -d {database} -c 'SELECT * FROM pg_stat_activity WHERE pid = {pid}'; then 'SELECT pg_terminate_backend({pid})'"
            );
            Line::wrong(check, detail, next)
        };
        Ok(blockers.into_iter().map(line).collect())
    }

    async fn held_files(&self) -> Vec<Line> {
        let files = self.platform.files.clone();
        let tried = join_all(files.into_iter().map(|log| async move { log.can_write(HELD_TOO_LONG).await })).await;
        let held: Vec<_> = tried.into_iter().filter_map(Result::err).collect();
        if held.is_empty() {
            return vec![Line::fine("writers", "nobody else holds a log")];
        }
        let line = |error: ports::Error| {
            let detail = format!("commands are refused: for more than a second, {}", error.chain());
            Line::wrong("writers", detail, "let that process finish, or end it; fuser -v on the file names it, too")
        };
        held.into_iter().map(line).collect()
    }
}
