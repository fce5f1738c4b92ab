//! A cached answer: ready bytes with what they depend on. One binary form serves both tiers; reading it copies no body.

use std::any::Any;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use domain::{Context, Timestamp};
use flate2::{Compression, write::GzEncoder};
use ports::{CacheVersion, Checkpoint, Error};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::feed::{Life, Mark};
use crate::token::{MinPosition, Reached};

/// An entry of another build may have another body for the same rows, so the version is part of the form.
const MAGIC: &[u8] = concat!("casitas/", env!("CARGO_PKG_VERSION"), "/2\n").as_bytes();
/// Smaller bodies do not gain by compression.
const GZIP_MIN_BYTES: usize = 1_024;

/// What an answer depends on in one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Dep {
    pub model: String,
    pub context: Context,
    pub life: Life,
    /// The model's revision that the rows were read at.
    pub revision: u64,
    pub checkpoint: Checkpoint,
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub deps: Vec<Dep>,
    pub computed_at: Timestamp,
    /// The next instant at which the answer changes without an event.
    pub valid_until: Option<Timestamp>,
    /// Strong and quoted; of the plain body.
    pub etag: HeaderValue,
    /// A strong tag names one representation, so the compressed one has its own.
    pub gzip_etag: HeaderValue,
    pub content_type: HeaderValue,
    pub next_cursor: Option<String>,
    pub plain: Bytes,
    /// There is no such thing. Answers of this kind are never kept in a tier.
    pub absent: bool,
    /// The compressed body, once somebody has asked for it; `None` when it is not worth it.
    packed: Memo<Option<Bytes>>,
    /// The typed value of the body, once a rule has looked into it.
    parsed: Memo<Arc<dyn Any + Send + Sync>>,
}

/// What follows from an entry: no part of what it is.
#[derive(Clone)]
struct Memo<T>(OnceLock<T>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> PartialEq for Memo<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> std::fmt::Debug for Memo<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

impl Entry {
    pub fn new(
        deps: Vec<Dep>,
        computed_at: Timestamp,
        valid_until: Option<Timestamp>,
        content_type: &'static str,
        plain: Bytes,
    ) -> Self {
        let (etag, gzip_etag) = etags(&plain);
        Self {
            deps,
            computed_at,
            valid_until,
            etag,
            gzip_etag,
            content_type: HeaderValue::from_static(content_type),
            next_cursor: None,
            plain,
            absent: false,
            packed: Memo::default(),
            parsed: Memo::default(),
        }
    }

    /// The compressed body, when it is worth it; made once, for the first who asks.
    pub fn gzip(&self) -> Option<&Bytes> {
        self.packed.0.get_or_init(|| gzip(&self.plain)).as_ref()
    }

    /// Whether the compressed body is still to be made.
    pub fn is_unpacked(&self) -> bool {
        self.plain.len() > GZIP_MIN_BYTES && self.packed.0.get().is_none()
    }

    /// The typed value of a JSON body, for rules that look into an answer; read once, however often it is asked for.
    pub fn value<T: serde::de::DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        if let Some(Ok(known)) = self.parsed.0.get().map(|known| known.clone().downcast::<T>()) {
            return Ok(known);
        }
        let value: T = serde_json::from_slice(&self.plain)
            .map_err(|error| Error::corrupt(format!("an answer cannot be read back: {error}")))?;
        let value = Arc::new(value);
        // Whoever was first is as good.
        let _ = self.parsed.0.set(value.clone());
        Ok(value)
    }

    /// Orders entries of one key. Each model's numbers only grow, so their sums do.
    pub fn version(&self) -> CacheVersion {
        CacheVersion {
            generation: self.deps.iter().map(|dep| dep.life.generation).sum(),
            term: self.deps.iter().map(|dep| dep.life.term).sum(),
            revision: self.deps.iter().map(|dep| dep.revision).sum(),
        }
    }

    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.valid_until.is_none_or(|until| now < until)
    }

    /// Whether the rows were read at or after the marks.
    pub fn at_least(&self, marks: &[Mark]) -> bool {
        self.deps.iter().all(|dep| {
            marks.iter().any(|mark| mark.model == dep.model && mark.life == dep.life && dep.revision >= mark.revision)
        })
    }

    /// Whether the rows themselves include the token's positions.
    pub fn reaches(&self, token: &MinPosition) -> Reached {
        self.deps.iter().fold(Reached::Yes, |reached, dep| reached.and(token.reached_by(dep.context, &dep.checkpoint)))
    }

    /// Bytes of memory, roughly, with what the compressed body may come to: the same before and after it is made.
    pub fn weight(&self) -> usize {
        let tags: usize = self.deps.iter().flat_map(|dep| &dep.tags).map(|tag| tag.len() + 32).sum();
        512 + tags + self.plain.len() + self.plain.len() / 4
    }

    /// With the compressed body if it is made.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.weight());
        out.put_slice(MAGIC);
        out.put_u16(u16::try_from(self.deps.len()).unwrap_or(u16::MAX));
        for dep in &self.deps {
            put_text(&mut out, &dep.model);
            put_text(&mut out, dep.context.as_str());
            out.put_u64(dep.life.generation);
            out.put_u64(dep.life.term);
            out.put_u64(dep.revision);
            out.put_u128(dep.checkpoint.incarnation.as_u128());
            out.put_u64(dep.checkpoint.position);
            out.put_u128(dep.checkpoint.event_id.map_or(0, |id| id.as_u128()));
            out.put_u32(u32::try_from(dep.tags.len()).unwrap_or(u32::MAX));
            for tag in &dep.tags {
                put_text(&mut out, tag);
            }
        }
        out.put_i64(self.computed_at.as_microsecond());
        out.put_i64(self.valid_until.map_or(i64::MAX, Timestamp::as_microsecond));
        put_bytes(&mut out, self.etag.as_bytes());
        put_bytes(&mut out, self.gzip_etag.as_bytes());
        put_bytes(&mut out, self.content_type.as_bytes());
        put_text(&mut out, self.next_cursor.as_deref().unwrap_or(""));
        put_bytes(&mut out, &self.plain);
        put_bytes(&mut out, self.packed.0.get().and_then(Option::as_deref).unwrap_or(&[]));
        out.freeze()
    }

    /// `None` for bytes that are not an entry of this build: a miss.
    pub fn decode(mut from: Bytes) -> Option<Self> {
        if !from.starts_with(MAGIC) {
            return None;
        }
        from.advance(MAGIC.len());
        let count = from.try_get_u16().ok()?;
        let deps = (0..count).map(|_| take_dep(&mut from)).collect::<Option<Vec<_>>>()?;
        let computed_at = Timestamp::from_microsecond(from.try_get_i64().ok()?).ok()?;
        let valid_until = match from.try_get_i64().ok()? {
            i64::MAX => None,
            microsecond => Some(Timestamp::from_microsecond(microsecond).ok()?),
        };
        let etag = take_header(&mut from)?;
        let gzip_etag = take_header(&mut from)?;
        let content_type = take_header(&mut from)?;
        let next_cursor = Some(take_text(&mut from)?).filter(|cursor| !cursor.is_empty());
        let plain = take_bytes(&mut from)?;
        let packed = match take_bytes(&mut from)? {
            gzip if gzip.is_empty() => Memo::default(),
            gzip => Memo(Some(gzip).into()),
        };
        from.is_empty().then_some(Self {
            deps,
            computed_at,
            valid_until,
            etag,
            gzip_etag,
            content_type,
            next_cursor,
            plain,
            absent: false,
            packed,
            parsed: Memo::default(),
        })
    }
}

fn take_dep(from: &mut Bytes) -> Option<Dep> {
    let model = take_text(from)?;
    let context = take_text(from)?.parse().ok()?;
    let life = Life { generation: from.try_get_u64().ok()?, term: from.try_get_u64().ok()? };
    let revision = from.try_get_u64().ok()?;
    let checkpoint = Checkpoint {
        incarnation: Uuid::from_u128(from.try_get_u128().ok()?),
        position: from.try_get_u64().ok()?,
        event_id: Some(Uuid::from_u128(from.try_get_u128().ok()?)).filter(|id| !id.is_nil()),
    };
    let count = from.try_get_u32().ok()?;
    let tags = (0..count).map(|_| take_text(from)).collect::<Option<Vec<_>>>()?;
    Some(Dep { model, context, life, revision, checkpoint, tags })
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    // Bodies are pages of at most 1,000 rows and tags are short: far below 4 GiB.
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn take_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
    (length <= from.len()).then(|| from.split_to(length))
}

fn take_text(from: &mut Bytes) -> Option<String> {
    String::from_utf8(take_bytes(from)?.into()).ok()
}

fn take_header(from: &mut Bytes) -> Option<HeaderValue> {
    // A copy: a header that shared the entry's bytes would keep all of them.
    HeaderValue::from_bytes(&take_bytes(from)?).ok()
}

/// The tags of the plain and of the compressed body.
fn etags(body: &[u8]) -> (HeaderValue, HeaderValue) {
    let digest = Sha256::digest(body);
    let mut text = String::with_capacity(40);
    text.push_str("\"u-");
    for byte in &digest[..16] {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
    }
    let header = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text)).expect("quotes, hex and hyphens");
    (header(format!("{text}\"")), header(format!("{text}-gz\"")))
}

/// The compressed body, when it is worth it.
fn gzip(plain: &Bytes) -> Option<Bytes> {
    if plain.len() <= GZIP_MIN_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::new(5));
    encoder.write_all(plain).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < plain.len()).then(|| packed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &str) -> Entry {
        let dep = Dep {
            model: "available_units".into(),
            context: Context::Units,
            life: Life { generation: 2, term: 3 },
            revision: 41,
            checkpoint: Checkpoint { incarnation: Uuid::from_u128(7), position: 10_423, event_id: Some(Uuid::from_u128(8)) },
            tags: vec!["*".into(), "unit-1".into()],
        };
        let now = Timestamp::from_second(1_700_000_000).expect("an instant");
        Entry::new(vec![dep], now, Some(now), "application/json", Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn an_entry_survives_the_round_trip() {
        for body in ["{}", &"[1,2,3]".repeat(1_000)] {
            let entry = entry(body);
            assert_eq!(Entry::decode(entry.encode()), Some(entry));
        }
    }

    #[test]
    fn a_body_is_compressed_once_and_the_result_goes_with_the_entry() {
        let (short, long) = (entry("{}"), entry(&"[1,2,3]".repeat(1_000)));
        assert!(!short.is_unpacked() && short.gzip().is_none());
        let before = long.weight();
        assert!(long.is_unpacked());
        assert!(Entry::decode(long.encode()).expect("an entry").is_unpacked(), "nobody has asked for it yet");
        let packed = long.gzip().expect("worth it").clone();
        assert_eq!((long.is_unpacked(), long.weight()), (false, before));
        assert_eq!(packed.as_ptr(), long.gzip().expect("kept").as_ptr());
        let decoded = Entry::decode(long.encode()).expect("an entry");
        assert!(!decoded.is_unpacked());
        assert_eq!(decoded.gzip(), Some(&packed));
    }

    #[test]
    fn cut_or_foreign_bytes_are_a_miss() {
        let bytes = entry(&"x".repeat(3_000)).encode();
        for length in 0..bytes.len() {
            assert_eq!(Entry::decode(bytes.slice(..length)), None, "{length}");
        }
        assert_eq!(Entry::decode(Bytes::from_static(b"{\"json\":true}")), None);
    }
}
