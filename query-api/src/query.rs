//! What can be asked of the reader: which models, under which key, and how the answer's bytes are made.

use async_trait::async_trait;
use bytes::Bytes;
use domain::{Context, Timestamp};
use ports::{Error, ModelSpec, Result, ViewSnapshot};
use read_models::{Answer, Page, Tag};
use serde::Serialize;

/// Where an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// As `Shared`; and everybody may see it, so that the old answer may be served for a moment while the next is computed.
    Public,
    /// In process and in the shared cache.
    Shared,
    /// In process only.
    Process,
    /// Nowhere: personal data.
    Never,
}

impl Sharing {
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Public | Self::Shared)
    }
}

/// One read, with everything that its answer depends on.
#[async_trait]
pub trait Query: Send + Sync + 'static {
    /// Every model that is read; the first names the key.
    fn models(&self) -> &'static [&'static ModelSpec];

    /// The canonical parameters: equal for equal answers, different for different ones.
    fn key(&self) -> String;

    fn sharing(&self) -> Sharing {
        Sharing::Shared
    }

    /// `None` when there is no such thing.
    async fn run(&self, snapshot: &mut dyn ViewSnapshot, now: Timestamp) -> Result<Option<Body>>;
}

/// The bytes of an answer and what they depend on.
pub struct Body {
    pub bytes: Bytes,
    pub next_cursor: Option<String>,
    pub tags: Vec<Tag>,
    pub valid_until: Option<Timestamp>,
}

impl Body {
    pub const CONTENT_TYPE: &'static str = "application/json";

    pub fn json<T: Serialize>(answer: Answer<T>) -> Result<Option<Self>> {
        let bytes = serde_json::to_vec(&answer.value)
            .map_err(|error| Error::corrupt(format!("an answer cannot be written as JSON: {error}")))?;
        Ok(Some(Self { bytes: bytes.into(), next_cursor: None, tags: answer.tags, valid_until: answer.valid_until }))
    }

    pub fn page<T: Serialize>(answer: Answer<Page<T>>) -> Result<Option<Self>> {
        let next_cursor = answer.value.next_cursor.clone();
        Ok(Self::json(answer)?.map(|body| Self { next_cursor, ..body }))
    }

    /// An answer about one thing, which may be missing.
    pub fn found<T: Serialize>(answer: Answer<Option<T>>) -> Result<Option<Self>> {
        match answer.value {
            None => Ok(None),
            Some(value) => Self::json(Answer { value, tags: answer.tags, valid_until: answer.valid_until }),
        }
    }

    /// A list that belongs to one thing, which may be missing.
    pub fn found_page<T: Serialize>(answer: Answer<Option<Page<T>>>) -> Result<Option<Self>> {
        match answer.value {
            None => Ok(None),
            Some(value) => Self::page(Answer { value, tags: answer.tags, valid_until: answer.valid_until }),
        }
    }
}

/// The key under which both tiers keep a query's answer.
pub fn cache_key(query: &dyn Query) -> String {
    let model = query.models().first().map_or("", |spec| spec.name);
    format!("v:{model}:{}", query.key())
}

pub(crate) fn sources(query: &dyn Query) -> Vec<(&'static str, Context)> {
    query.models().iter().map(|spec| (spec.name, spec.context)).collect()
}

/// Declares a query: its parameters, the models it reads, and the call of the read model that answers it.
///
/// The form is a function of [`Body`]: `json`, `page`, `found` or `found_page`.
macro_rules! query {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }
        as $key:literal, $sharing:ident, reads [$($spec:path),+ $(,)?],
        $form:ident($this:ident, $snapshot:ident, $now:ident) $answer:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, serde::Serialize)]
        pub(crate) struct $name { $(pub $field: $type),* }

        #[async_trait::async_trait]
        impl $crate::query::Query for $name {
            fn models(&self) -> &'static [&'static ports::ModelSpec] {
                static MODELS: &[&ports::ModelSpec] = &[$(&$spec),+];
                MODELS
            }
            fn key(&self) -> String {
                $crate::key::canonical($key, self)
            }
            fn sharing(&self) -> $crate::query::Sharing {
                $crate::query::Sharing::$sharing
            }
            async fn run(
                &self,
                $snapshot: &mut dyn ports::ViewSnapshot,
                $now: domain::Timestamp,
            ) -> ports::Result<Option<$crate::query::Body>> {
                let $this = self;
                // Not every answer depends on the time.
                let _ = $now;
                $crate::query::Body::$form($answer.await?)
            }
        }
    };
}
pub(crate) use query;
