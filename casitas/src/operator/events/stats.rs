//! `stats`.

use anyhow::Result;
use ports::{STRETCH_MAX, Tally};
use serde_json::{Value, json};

use crate::exit;
use crate::operator::{Operator, Rows, chained};

impl Operator {
    pub(super) async fn show_stats(&self, context: Option<&str>, top: usize, rows: &Rows) -> Result<u8> {
        for log in self.logs(context)? {
            let context = log.context().as_str();
            let head = log.head().await.map_err(chained)?.position;
            let mut tally = Tally::default();
            let mut after = 0;
            while after < head {
                let upto = head.min(after + STRETCH_MAX);
                tally.add(log.tally(after, upto, top).await.map_err(chained)?, top);
                after = upto;
            }
            let row = |what: &str, month: Value, event_type: Value, stream: Value, events: u64| json!({"context": context, "what": what, "month": month, "type": event_type, "stream": stream, "events": events});
            rows.send(row("log", Value::Null, Value::Null, Value::Null, head)).await?;
            for count in tally.months {
                rows.send(row("type", json!(count.month), json!(count.event_type), Value::Null, count.events)).await?;
            }
            for (stream, events) in tally.streams {
                rows.send(row("stream", Value::Null, Value::Null, json!(stream.to_string()), events)).await?;
            }
        }
        Ok(exit::OK)
    }
}
