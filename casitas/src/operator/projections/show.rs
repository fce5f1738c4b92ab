//! `casitas projections list` and `status`.

use anyhow::Result;
use domain::Context;
use ports::{Generation, ModelSpec, Position, Standing};
use projector::{Board, FollowerStatus};
use serde_json::{Value, json};

use super::super::doctor::{BESIDE_LOGS, MOVE_IN};
use super::super::{Operator, Rows, chained};
use crate::exit;

impl Operator {
    pub(super) async fn list_projections(&self, rows: &Rows) -> Result<u8> {
        for row in self.projection_rows().await? {
            rows.send(row).await?;
        }
        Ok(exit::OK)
    }

    /// Positions from the view store, heads from the logs, states from this process's board where it runs followers.
    pub(in crate::operator) async fn projection_rows(&self) -> Result<Vec<Value>> {
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let statuses = self.board.as_ref().map(Board::snapshot).unwrap_or_default();
        let (others, paused) = self.beside().await?;
        let mut rows = vec![];
        for model in read_models::all() {
            let spec = model.spec();
            let log = self.platform.logs.get(spec.context).map_err(chained)?.head().await.map_err(chained)?;
            let head = heads.iter().find(|head| head.model == spec.name);
            let position = head.map_or(0, |head| head.checkpoint.position);
            let lag = log.position.saturating_sub(position);
            let status = statuses.iter().find(|status| status.name == spec.name).map(|status| json!(status));
            let state = status.as_ref().and_then(|status| status["state"].as_str().map(str::to_owned));
            let fallback = || match (head, lag) {
                (None, _) => "absent".to_owned(),
                (Some(_), 0) => "current".to_owned(),
                (Some(_), _) => "behind".to_owned(),
            };
            let state = if paused.iter().any(|name| name == spec.name) {
                "paused".to_owned()
            } else {
                state.unwrap_or_else(fallback)
            };
            let beside: Vec<String> = others.iter().filter(|other| other.head.model == spec.name).map(short).collect();
            rows.push(json!({
                "name": spec.name,
                "version": format!("v{}", head.map_or(spec.fold_version, |head| head.fold_version)),
                "generation": head.map_or(0, |head| head.generation),
                "state": state,
                "context": spec.context.as_str(),
                "position": position,
                "lag_events": lag,
                "lag_seconds": match &status {
                    Some(status) => status["lag_seconds"].clone(),
                    None => self.lag_seconds(spec.context, position).await?,
                },
                "reason": status.as_ref().map_or(Value::Null, |status| status["reason"].clone()),
                "beside": beside.join(", "),
            }));
        }
        self.other_followers(&statuses, &mut rows).await?;
        Ok(rows)
    }

    /// Followers whose checkpoint lies beside their log: no generation, no version.
    async fn other_followers(&self, statuses: &[FollowerStatus], rows: &mut Vec<Value>) -> Result<()> {
        for (name, context) in BESIDE_LOGS {
            let log = self.platform.logs.get(context).map_err(chained)?;
            let head = log.head().await.map_err(chained)?.position;
            let checkpoint = log.follower_checkpoint(name).await.map_err(chained)?;
            let position = checkpoint.map_or(0, |checkpoint| checkpoint.position);
            let lag = head.saturating_sub(position);
            let status = statuses.iter().find(|status| status.name == name).map(|status| json!(status));
            let state = status.as_ref().and_then(|status| status["state"].as_str());
            let mut state = state.unwrap_or(if lag == 0 { "current" } else { "behind" });
            let mut reason = status.as_ref().map_or(Value::Null, |status| status["reason"].clone());
            // The board of another process is not seen here; what the policy is stuck at stands in the views.
            if self.platform.distributed
                && name == MOVE_IN
                && lag > 0
                && let Some(stuck) = self.stuck_processes().await?.into_iter().next()
            {
                (state, reason) = ("stalled", Value::from(stuck.told()));
            }
            rows.push(json!({
                "name": name,
                "version": null,
                "generation": null,
                "state": state,
                "context": context.as_str(),
                "position": position,
                "lag_events": lag,
                "lag_seconds": match &status {
                    Some(status) => status["lag_seconds"].clone(),
                    None => self.lag_seconds(context, position).await?,
                },
                "reason": reason,
                "beside": "",
            }));
        }
        Ok(())
    }

    /// Age of the first event that is not folded: what can be told of a follower in another process.
    async fn lag_seconds(&self, context: Context, position: Position) -> Result<Value> {
        Ok(json!(self.oldest(context, position).await?.map_or(0, |(_, seconds)| seconds)))
    }

    /// Generations that are not live, and models that are paused, where this process may see them.
    async fn beside(&self) -> Result<(Vec<Generation>, Vec<String>)> {
        let Some(rebuilder) = &self.rebuilder else { return Ok(Default::default()) };
        let specs: Vec<&'static ModelSpec> = read_models::all().iter().map(|model| model.spec()).collect();
        let mut all = rebuilder.views().generations(&specs).await.map_err(chained)?;
        all.retain(|found| found.standing != Standing::Live);
        Ok((all, rebuilder.views().paused().await.map_err(chained)?))
    }

    pub(super) async fn projection_status(&self, name: Option<&str>, rows: &Rows) -> Result<u8> {
        let models = match name {
            Some(name) => vec![super::model(name)?],
            None => read_models::all(),
        };
        let views = self.rebuilder()?.views();
        let paused = views.paused().await.map_err(chained)?;
        for model in models {
            let spec = model.spec();
            let log = self.platform.logs.get(spec.context).map_err(chained)?.head().await.map_err(chained)?;
            for found in views.generations(&[spec]).await.map_err(chained)? {
                let is_paused = paused.iter().any(|name| name == spec.name);
                rows.send(status_row(&found, log.position, is_paused)).await?;
            }
        }
        Ok(exit::OK)
    }
}

fn short(found: &Generation) -> String {
    format!("{} {}", found.head.generation, found.standing.as_str())
}

fn status_row(found: &Generation, log: u64, paused: bool) -> Value {
    let head = &found.head;
    let unfinished = found.parts.iter().filter(|part| !part.finished).count();
    json!({
        "name": head.model,
        "generation": head.generation,
        "version": format!("v{}", head.fold_version),
        "state": found.standing.as_str(),
        "paused": paused,
        "position": head.checkpoint.position,
        "lag_events": log.saturating_sub(head.checkpoint.position),
        "term": head.term,
        "revision": head.revision,
        "parts": found.parts.len(),
        "parts_left": unfinished,
        "rows_loaded": found.parts.iter().map(|part| part.rows).sum::<u64>(),
    })
}
