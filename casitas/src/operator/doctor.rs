//! `casitas doctor`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Operator, Rows};
use crate::exit;

const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

impl Operator {
    pub(super) async fn doctor(&self, quick: bool, rows: &Rows) -> Result<u8> {
        let mut exit = exit::OK;
        for check in &self.platform.checks {
            let outcome = tokio::time::timeout(CHECK_TIMEOUT, check.run()).await;
            let (state, detail) = match outcome {
                Ok(Ok(())) => ("ok", String::new()),
                Ok(Err(error)) => ("failed", error.chain()),
                Err(_) => ("unknown", "could not check (timeout 2s)".to_owned()),
            };
            if state != "ok" {
                exit = exit::DEPENDENCY_DOWN;
            }
            rows.send(json!({"check": check.name(), "state": state, "detail": detail})).await?;
        }
        if quick || exit != exit::OK {
            return Ok(exit);
        }
        for row in self.projection_rows().await? {
            let lag = row["lag_events"].as_u64().unwrap_or_default();
            let stalled = row["state"] == "stalled";
            let (state, detail) = match (stalled, lag) {
                (true, _) => {
                    ("failed", format!("stands still: {}", row["reason"].as_str().unwrap_or("see the projector's log")))
                }
                (false, 0) => ("ok", String::new()),
                (false, lag) => ("ok", format!("{lag} events behind")),
            };
            if stalled {
                exit = exit::CHECK_FAILED;
            }
            rows.send(json!({"check": row["name"], "state": state, "detail": detail})).await?;
        }
        Ok(exit)
    }
}
