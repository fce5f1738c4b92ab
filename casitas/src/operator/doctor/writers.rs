//! Sessions of Postgres in whose way others stand, above all those who write to a log.

use anyhow::Result;

use super::super::{Operator, chained};
use super::Line;

impl Operator {
    pub(super) async fn blocked_writers(&self) -> Result<Vec<Line>> {
        let check = "writers";
        let Some(diagnosis) = &self.platform.diagnosis else {
            return Ok(vec![Line::fine(check, "one process writes")]);
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
}
