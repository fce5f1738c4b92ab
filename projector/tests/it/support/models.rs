//! Read models of the tests.

use std::sync::Mutex;

use domain::Context;
use ports::{Error, ModelSpec, Position, Recorded, Result};
use read_models::{Feed, ReadModel, Rows};
use serde_json::{Value, json};

/// Writes down every position it folds: one folded twice, skipped or out of order is seen. Row `all`, and one row a stream; or what
/// its feed allows.
pub struct Trace {
    spec: &'static ModelSpec,
    feed: Feed,
    /// The event that it cannot take (0: every one), and whether it panics on it.
    pub poison: Mutex<Option<(Position, bool)>>,
}

pub struct Traced;

impl Traced {
    pub fn positions(doc: Option<Value>) -> Vec<Position> {
        doc.map(|doc| serde_json::from_value(doc["positions"].clone()).expect("positions")).unwrap_or_default()
    }
}

impl Trace {
    pub fn over(context: Context, name: &'static str) -> &'static Self {
        Self::fed(context, name, Feed::Mixed)
    }

    pub fn fed(context: Context, name: &'static str, feed: Feed) -> &'static Self {
        let spec = Box::leak(Box::new(ModelSpec { name, fold_version: 1, context, fields: &[] }));
        Box::leak(Box::new(Self { spec, feed, poison: Mutex::default() }))
    }
}

impl Trace {
    pub fn is_poisoned_by(&self, poison: Option<(Position, bool)>) {
        *self.poison.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = poison;
    }
}

impl ReadModel for Trace {
    fn spec(&self) -> &'static ModelSpec {
        self.spec
    }
    fn feed(&self) -> Feed {
        self.feed
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match self.feed {
            Feed::Mixed => vec!["all".into(), event.stream.id.clone()],
            Feed::Streams(_) => vec![event.stream.id.clone()],
            Feed::Events(_) => vec![format!("{:04}", event.position)],
        })
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        for key in &self.keys(event)? {
            let known = if matches!(self.feed, Feed::Events(_)) { None } else { rows.get::<Value>(key)? };
            let mut positions = Traced::positions(known);
            positions.push(event.position);
            rows.put_tagged(key, json!({ "positions": positions }), vec![], &[key, Rows::COLLECTION])?;
            // Between the rows, so that half of the event's work is done when it fails.
            let poison = *self.poison.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some((position, panics)) = poison
                && [event.position, 0].contains(&position)
            {
                assert!(!panics, "the test panics");
                return Err(Error::corrupt("the test says so"));
            }
        }
        Ok(())
    }
}
