//! Sealing of personal data in events: AES-256-GCM with one key per data subject, wrapped by a master key.
//!
//! A sealed value replaces the event's field `personal` by `{"sealed": {"subject", "nonce", "box"}}`. The additional data
//! bind it to its stream and sequence, so that a ciphertext cannot be moved to another event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::StreamId;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{Error, NewSubjectKey, Recorded, Result, SubjectKeys};

/// Keys kept in memory per process; the cache is emptied when it is full.
const CACHED_KEYS_MAX: usize = 10_000;

/// The key that wraps the keys of data subjects. 32 bytes, kept outside the databases.
#[derive(Clone)]
pub struct MasterKey(Arc<Zeroizing<[u8; 32]>>);

impl MasterKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
    /// From base64 text (as in `master.key`).
    pub fn from_base64(text: &str) -> Result<Self> {
        let bytes =
            Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| Error::corrupt("the master key is not base64"))?);
        let bytes: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_| Error::corrupt("the master key is not 32 bytes long"))?;
        Ok(Self::new(bytes))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

type SubjectKey = Arc<Zeroizing<[u8; 32]>>;

/// The keys that subjects get with the events of one command. They are stored with these or never, so that nothing else may be
/// sealed with them before.
#[derive(Default)]
pub struct FirstKeys(Vec<(NewSubjectKey, SubjectKey)>);

impl FirstKeys {
    /// As they are to be stored.
    pub fn into_new(self) -> Vec<NewSubjectKey> {
        self.0.into_iter().map(|(new, _)| new).collect()
    }

    fn of(&self, subject: &str) -> Option<SubjectKey> {
        self.0.iter().find(|(new, _)| new.subject == subject).map(|(_, key)| key.clone())
    }
}

/// Seals and opens the personal part of events.
#[derive(Clone)]
pub struct Sealer {
    master: MasterKey,
    /// Subject to opened key. Erasure must call [`Sealer::forget`].
    cache: Arc<Mutex<HashMap<String, SubjectKey>>>,
}

impl Sealer {
    pub fn new(master: MasterKey) -> Self {
        Self { master, cache: Arc::default() }
    }

    pub fn forget(&self, subject: &str) {
        self.cached().remove(subject);
    }

    /// Seals `payload.<Variant>.personal`. A subject without a key gets one, among `first`: to be stored with the event.
    pub async fn seal<K: SubjectKeys + ?Sized>(
        &self,
        keys: &K,
        subject: &str,
        stream: &StreamId,
        sequence: u64,
        payload: &mut Value,
        first: &mut FirstKeys,
    ) -> Result<()> {
        let Some(personal) = personal_of(payload) else { return Ok(()) };
        if personal.is_null() {
            return Ok(());
        }
        let key = match first.of(subject) {
            Some(key) => key,
            None => match self.key(keys, subject).await? {
                Some(key) => key,
                None => self.first_key(subject, first)?,
            },
        };
        let plain = Zeroizing::new(personal.to_string().into_bytes());
        let (nonce, boxed) = encrypt(&key, &plain, additional(stream, sequence).as_bytes())?;
        *personal = json!({"sealed": {"subject": subject, "nonce": STANDARD.encode(nonce), "box": STANDARD.encode(boxed)}});
        Ok(())
    }

    /// Opens a payload in place; a destroyed key leaves `null`. Answers whether anything was sealed.
    pub async fn open<K: SubjectKeys + ?Sized>(
        &self,
        keys: &K,
        stream: &StreamId,
        sequence: u64,
        payload: &mut Value,
    ) -> Result<bool> {
        self.try_open(keys, stream, sequence, payload).await?
    }

    /// The outer error says nothing of the value: its key cannot be had, and with a wrong master key no key can.
    async fn try_open<K: SubjectKeys + ?Sized>(
        &self,
        keys: &K,
        stream: &StreamId,
        sequence: u64,
        payload: &mut Value,
    ) -> Result<Result<bool>> {
        let Some(personal) = personal_of(payload) else { return Ok(Ok(false)) };
        let Some(sealed) = personal.get("sealed") else { return Ok(Ok(false)) };
        let (subject, nonce, boxed) = match parts_of(sealed, stream) {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error)),
        };
        let opened = match self.key(keys, subject).await? {
            None => Ok(Value::Null),
            Some(key) => plain_of(&key, &nonce, &boxed, stream, sequence),
        };
        Ok(opened.map(|opened| {
            *personal = opened;
            true
        }))
    }

    /// Opens the events of a batch that carry sealed values; the error names the first that cannot be opened.
    pub async fn open_recorded<K: SubjectKeys + ?Sized>(&self, keys: &K, events: &mut [Recorded]) -> Result<()> {
        for event in events.iter_mut().filter(|event| may_be_sealed(event)) {
            self.open_event(keys, event).await?.map_err(|error| match error {
                Error::Corrupt(reason) => Error::Corrupt(format!(
                    "event {} {} of {} at {}:{}: {reason}",
                    event.event_id,
                    event.event_type,
                    event.stream,
                    event.stream.context(),
                    event.position
                )),
                other => other,
            })?;
        }
        Ok(())
    }

    /// The same for folds: what cannot be opened stays as it is stored, so that it stops who folds that event and nobody else.
    pub async fn open_readable<K: SubjectKeys + ?Sized>(&self, keys: &K, events: &mut [Recorded]) -> Result<()> {
        for event in events.iter_mut().filter(|event| may_be_sealed(event)) {
            // Whoever folds it asks `is_sealed` when it fails.
            let _ = self.open_event(keys, event).await?;
        }
        Ok(())
    }

    async fn open_event<K: SubjectKeys + ?Sized>(&self, keys: &K, event: &mut Recorded) -> Result<Result<()>> {
        let mut payload = match event.json() {
            Ok(payload) => payload,
            Err(error) => return Ok(Err(error)),
        };
        let opened = self.try_open(keys, &event.stream, event.sequence, &mut payload).await?;
        Ok(opened.and_then(|opened| {
            if opened {
                event.payload = RawValue::from_string(payload.to_string())
                    .map_err(|error| Error::corrupt(format!("an opened event is not JSON: {error}")))?
                    .into();
            }
            Ok(())
        }))
    }

    /// Whether the master key opens a subject's wrapped key.
    pub fn unwraps(&self, subject: &str, wrapped: &[u8]) -> bool {
        self.unwrap_and_keep(subject, wrapped).is_ok()
    }

    async fn key<K: SubjectKeys + ?Sized>(&self, keys: &K, subject: &str) -> Result<Option<SubjectKey>> {
        if let Some(key) = self.cached().get(subject) {
            return Ok(Some(key.clone()));
        }
        let Some(wrapped) = keys.subject_key(subject).await? else { return Ok(None) };
        self.unwrap_and_keep(subject, &wrapped).map(Some)
    }

    /// Not kept in the cache: nobody knows yet whether it will be stored.
    fn first_key(&self, subject: &str, first: &mut FirstKeys) -> Result<SubjectKey> {
        let key: SubjectKey = Arc::new(Zeroizing::new(rand::random::<[u8; 32]>()));
        let (nonce, boxed) = encrypt(&self.master.0, key.as_slice(), subject.as_bytes())?;
        let wrapped = [nonce.as_slice(), boxed.as_slice()].concat();
        first.0.push((NewSubjectKey { subject: subject.to_owned(), wrapped }, key.clone()));
        Ok(key)
    }

    fn unwrap_and_keep(&self, subject: &str, wrapped: &[u8]) -> Result<SubjectKey> {
        let (nonce, boxed) = wrapped.split_at_checked(12).ok_or_else(|| Error::corrupt("a wrapped key is too short"))?;
        let plain = decrypt(&self.master.0, nonce, boxed, subject.as_bytes())?;
        let bytes: [u8; 32] = plain.as_slice().try_into().map_err(|_| Error::corrupt("a subject's key is not 32 bytes"))?;
        let key: SubjectKey = Arc::new(Zeroizing::new(bytes));
        let mut cache = self.cached();
        if cache.len() >= CACHED_KEYS_MAX {
            cache.clear();
        }
        cache.insert(subject.to_owned(), key.clone());
        Ok(key)
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, HashMap<String, SubjectKey>> {
        self.cache.lock().expect("the key cache's lock is never poisoned: nothing under it panics")
    }
}

/// Whether personal data of an event are sealed in its payload, as they are stored.
pub fn is_sealed(event: &Recorded) -> bool {
    may_be_sealed(event)
        && event
            .json()
            .is_ok_and(|mut payload| personal_of(&mut payload).is_some_and(|personal| personal.get("sealed").is_some()))
}

/// Without parsing it.
fn may_be_sealed(event: &Recorded) -> bool {
    event.payload.get().contains("\"sealed\"")
}

/// Subject, nonce and box of a sealed value.
fn parts_of<'a>(sealed: &'a Value, stream: &StreamId) -> Result<(&'a str, Vec<u8>, Vec<u8>)> {
    let field = |name: &str| {
        sealed
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| Error::corrupt(format!("a sealed value of {stream} has no {name}")))
    };
    let bytes = |name: &str| {
        STANDARD.decode(field(name)?).map_err(|_| Error::corrupt(format!("a sealed value of {stream} is not base64")))
    };
    Ok((field("subject")?, bytes("nonce")?, bytes("box")?))
}

fn plain_of(key: &[u8; 32], nonce: &[u8], boxed: &[u8], stream: &StreamId, sequence: u64) -> Result<Value> {
    let plain = decrypt(key, nonce, boxed, additional(stream, sequence).as_bytes())?;
    serde_json::from_slice(&plain).map_err(|_| Error::corrupt(format!("a sealed value of {stream} is not JSON")))
}

/// `payload.<Variant>.personal` of an externally tagged event.
fn personal_of(payload: &mut Value) -> Option<&mut Value> {
    payload.as_object_mut()?.values_mut().next()?.get_mut("personal")
}

fn additional(stream: &StreamId, sequence: u64) -> String {
    format!("{stream}:{sequence}")
}

fn encrypt(key: &[u8; 32], plain: &[u8], aad: &[u8]) -> Result<([u8; 12], Vec<u8>)> {
    let nonce: [u8; 12] = rand::random();
    let cipher = Aes256Gcm::new(key.into());
    let boxed = cipher
        .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad })
        .map_err(|_| Error::corrupt("a value could not be sealed"))?;
    Ok((nonce, boxed))
}

fn decrypt(key: &[u8; 32], nonce: &[u8], boxed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let nonce: [u8; 12] = nonce.try_into().map_err(|_| Error::corrupt("a nonce is not 12 bytes"))?;
    Aes256Gcm::new(key.into())
        .decrypt(&Nonce::from(nonce), Payload { msg: boxed, aad })
        .map(Zeroizing::new)
        .map_err(|_| Error::corrupt("a sealed value cannot be opened: wrong master key, or it was tampered with"))
}
