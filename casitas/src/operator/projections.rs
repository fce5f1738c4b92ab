//! `casitas projections`: the read models.

use anyhow::Result;
use clap::Subcommand;
use projector::Board;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Operator, Rows, chained};
use crate::exit;

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Projections {
    /// Every read model: version, position, lag.
    List,
}

impl Operator {
    pub(super) async fn projections(&self, verb: Projections, rows: &Rows) -> Result<u8> {
        match verb {
            Projections::List => self.list_projections(rows).await,
        }
    }

    async fn list_projections(&self, rows: &Rows) -> Result<u8> {
        for row in self.projection_rows().await? {
            rows.send(row).await?;
        }
        Ok(exit::OK)
    }

    /// Positions from the view store, heads from the logs, states from this process's board where it runs followers.
    pub(super) async fn projection_rows(&self) -> Result<Vec<Value>> {
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let statuses = self.board.as_ref().map(Board::snapshot).unwrap_or_default();
        let mut rows = vec![];
        for model in read_models::all() {
            let spec = model.spec();
            let log = self.platform.logs.get(spec.context).map_err(chained)?.head().await.map_err(chained)?;
            let head = heads.iter().find(|head| head.model == spec.name);
            let position = head.map_or(0, |head| head.checkpoint.position);
            let lag = log.position.saturating_sub(position);
            let status = statuses.iter().find(|status| status.name == spec.name).map(|status| json!(status));
            let state = status.as_ref().and_then(|status| status["state"].as_str().map(str::to_owned));
            rows.push(json!({
                "name": spec.name,
                "version": format!("v{}", head.map_or(spec.fold_version, |head| head.fold_version)),
                "generation": head.map_or(0, |head| head.generation),
                "state": state.unwrap_or_else(|| if head.is_none() { "absent".into() } else if lag == 0 { "current".into() } else { "behind".to_owned() }),
                "context": spec.context.as_str(),
                "position": position,
                "lag_events": lag,
                "lag_seconds": status.as_ref().map_or(Value::Null, |status| status["lag_seconds"].clone()),
                "reason": status.as_ref().map_or(Value::Null, |status| status["reason"].clone()),
            }));
        }
        Ok(rows)
    }
}
