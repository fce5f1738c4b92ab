//! Where history can be delivered to.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Result, ensure};
use domain::{Aggregate, Context, with_aggregate};
use ports::{Logs, Recorded, RowChange};
use projector::{Skips, attempt};
use read_models::{ReadModel, Rows};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::masked::without_person;
use crate::exit;
use crate::operator::projections::model;
use crate::operator::{Refusal, chained, misunderstood};
use crate::transfer::{cloud_event, hex};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Events after which the changed rows are written out.
const BATCH: usize = 5_000;

pub enum Sink {
    Dry,
    Stdout,
    Webhook(Webhook),
    Fold(Box<Fold>),
}

impl Sink {
    pub async fn of(text: &str, logs: &Logs) -> Result<Self> {
        if let Some(name) = text.strip_prefix("projection:") {
            return Ok(Self::Fold(Box::new(Fold::of(name, logs).await?)));
        }
        match text {
            "dry" => Ok(Self::Dry),
            "stdout" => Ok(Self::Stdout),
            url if url.starts_with("http://") || url.starts_with("https://") => Ok(Self::Webhook(Webhook::to(url)?)),
            other => Err(misunderstood(format!(
                "--into is dry, projection:NAME, stdout, or an address that begins with http:// or https://, not {other:?}"
            ))),
        }
    }

    /// The context whose events it takes; `None` for any.
    pub fn context(&self) -> Result<Option<Context>> {
        Ok(match self {
            Self::Fold(fold) => Some(fold.model.spec().context),
            Self::Dry | Self::Stdout | Self::Webhook(_) => None,
        })
    }

    /// Whether operators gave the event up where it would go, so that no rebuild has it either.
    pub fn leaves_out(&self, event: &Recorded) -> bool {
        match self {
            Self::Fold(fold) => fold.skips.has(event),
            Self::Dry | Self::Stdout | Self::Webhook(_) => false,
        }
    }
}

/// Reads an event as this build knows it.
pub fn read(event: &Recorded) -> Result<()> {
    let event = without_person(event)?;
    with_aggregate!(event.stream.kind, A => event.decode::<<A as Aggregate>::Event>().map(drop)).map_err(chained)
}

pub struct Webhook {
    client: reqwest::Client,
    url: String,
}

impl Webhook {
    /// Certificates are those that the system trusts (or `SSL_CERT_FILE`).
    fn to(url: &str) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?;
        Ok(Self { client, url: url.to_owned() })
    }

    /// Waits for 2xx. Who is busy or ailing is asked again, a few times.
    pub async fn post(&self, event: &Recorded) -> Result<()> {
        let body = cloud_event(event)?.to_string();
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            let request = self.client.post(&self.url).header("content-type", "application/cloudevents+json");
            let why = match request.body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    ensure!(status.is_server_error() || status.as_u16() == 429, "{} refused the event: {status}", self.url);
                    anyhow::anyhow!("{} answered {status}", self.url)
                }
                Err(error) => anyhow::Error::from(error).context(format!("{} does not answer", self.url)),
            };
            if attempt == TRIES {
                return Err(why.context(format!("given up after {TRIES} tries")));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}

/// A read model's rows in memory, to be thrown away.
pub struct Fold {
    model: &'static dyn ReadModel,
    skips: Skips,
    working: Rows,
    stored: BTreeMap<String, Value>,
    events: usize,
}

impl Fold {
    async fn of(name: &str, logs: &Logs) -> Result<Self> {
        let model = model(name)?;
        let skips = Skips::of(model.spec().name, logs).await.map_err(chained)?;
        Ok(Self { model, skips, working: Rows::default(), stored: BTreeMap::new(), events: 0 })
    }

    /// The error names the event and says why the model cannot take it.
    pub fn take(&mut self, event: &Recorded) -> Result<()> {
        let Self { model, working, stored, .. } = self;
        let folded = attempt(*model, event, || {
            let keys = model.keys(event)?;
            let unknown: Vec<String> = keys.into_iter().filter(|key| !working.knows(key)).collect();
            let found: HashMap<String, Value> =
                unknown.iter().filter_map(|key| Some((key.clone(), stored.get(key)?.clone()))).collect();
            working.load(&unknown, found);
            model.fold(event, working)
        });
        folded.map_err(|reason| Refusal::new(exit::FAILED, reason))?;
        self.events += 1;
        if self.events.is_multiple_of(BATCH) {
            self.store()?;
        }
        Ok(())
    }

    fn store(&mut self) -> Result<()> {
        for change in self.working.take_changes().map_err(chained)?.0 {
            match change {
                RowChange::Put { key, doc, .. } => drop(self.stored.insert(key, doc)),
                RowChange::Delete { key } => drop(self.stored.remove(&key)),
            }
        }
        Ok(())
    }

    /// How many rows there are, and the SHA-256 of all of them in the order of their keys.
    pub fn digest(&mut self) -> Result<(usize, String)> {
        self.store()?;
        let mut digest = Sha256::new();
        for (key, doc) in &self.stored {
            let doc = doc.to_string();
            for text in [key, &doc] {
                digest.update((text.len() as u64).to_be_bytes());
                digest.update(text.as_bytes());
            }
        }
        Ok((self.stored.len(), hex(&digest.finalize())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use adapters::memory::MemoryLog;
    use domain::auth::Operations;
    use domain::{AggregateKind, Date, StreamId};
    use ports::{AppendRequest, EventLog, Metadata, NewEvent, StreamAppend, SystemClock};
    use serde_json::json;
    use serde_json::value::to_raw_value;
    use uuid::Uuid;

    use super::*;

    /// The first event of a stream, and of its log.
    async fn appended(log: &dyn EventLog, stream: StreamId, event_type: &str, data: Value) -> Recorded {
        let event = NewEvent {
            event_id: Uuid::now_v7(),
            event_type: event_type.into(),
            event_version: "1".into(),
            payload: to_raw_value(&json!({ event_type: data })).expect("JSON"),
            effective_on: Date::constant(2026, 11, 26),
        };
        let metadata =
            Metadata { actor: "cli".into(), correlation_id: Uuid::now_v7(), causation_id: None, traceparent: None };
        let append = StreamAppend { stream, expected_version: 0, events: vec![event] };
        let request = AppendRequest { key: None, metadata, subject_keys: vec![], streams: vec![append] };
        log.append(&[request]).await.expect("appended");
        log.read(0, 1).await.expect("read").remove(0)
    }

    #[tokio::test]
    async fn what_operators_skipped_is_left_out_in_that_model_alone_and_named_in_the_others() {
        let log = |context| Arc::new(MemoryLog::new(context, Arc::new(SystemClock))) as Arc<dyn EventLog>;
        let (auth, units) = (log(Context::Auth), log(Context::Units));
        let logs = Logs::new([auth.clone(), units.clone()]);
        let unit = StreamId::new(AggregateKind::Unit, Uuid::from_u128(1).to_string());
        let poison = appended(&*units, unit.clone(), "UnitUnlisted", json!(7)).await;
        let unit = unit.to_string();
        let skip = json!({"by": "ana (1000)", "reason": "typed by hand", "model": "units", "stream": unit, "position": 1,
            "event_id": poison.event_id});
        let operations = StreamId::new(AggregateKind::Operations, Operations::ID);
        appended(&*auth, operations, "ParkedEventSkipped", skip).await;

        assert!(Sink::of("projection:units", &logs).await.expect("a fold").leaves_out(&poison));
        assert!(!Sink::of("projection:available_units", &logs).await.expect("a fold").leaves_out(&poison));
        assert!(!Sink::of("dry", &logs).await.expect("a sink").leaves_out(&poison));
        let refused = Fold::of("available_units", &logs).await.expect("a fold").take(&poison).expect_err("7 is no event");
        let Some(Refusal { code, .. }) = refused.downcast_ref() else { panic!("{refused}") };
        assert_eq!(*code, exit::FAILED);
        for named in ["available_units", "units:1", unit.as_str(), "UnitUnlisted", "cannot be read"] {
            assert!(refused.to_string().contains(named), "{refused}");
        }
    }
}
