//! Where history can be delivered to.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Result, ensure};
use domain::{Aggregate, Context, with_aggregate};
use ports::{Recorded, RowChange};
use read_models::{ReadModel, Rows};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::masked::without_person;
use crate::operator::projections::model;
use crate::operator::{chained, misunderstood};
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
    pub fn of(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("projection:") {
            return Ok(Self::Fold(Box::new(Fold::of(name)?)));
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
    working: Rows,
    stored: BTreeMap<String, Value>,
    events: usize,
}

impl Fold {
    fn of(name: &str) -> Result<Self> {
        Ok(Self { model: model(name)?, working: Rows::default(), stored: BTreeMap::new(), events: 0 })
    }

    pub fn take(&mut self, event: &Recorded) -> Result<()> {
        let keys = self.model.keys(event).map_err(chained)?;
        let unknown: Vec<String> = keys.into_iter().filter(|key| !self.working.knows(key)).collect();
        let found: HashMap<String, Value> =
            unknown.iter().filter_map(|key| Some((key.clone(), self.stored.get(key)?.clone()))).collect();
        self.working.load(&unknown, found);
        self.model.fold(event, &mut self.working).map_err(chained)?;
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
