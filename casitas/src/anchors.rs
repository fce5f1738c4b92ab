//! Anchors: heads of the hash chains, signed, to be kept where nobody who can write the databases can. One JSON line each:
//! `{"anchor": {"made_at", "heads": [...]}, "key", "signature"}`; the signature (Ed25519, with `anchor.pem` of the secrets) is
//! over the bytes of `anchor` as they stand in the line.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::{Context, Sha256, Timestamp};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use ports::Position;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::secrets::Secrets;

pub const KEY_FILE: &str = "anchor.pem";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub made_at: Timestamp,
    pub heads: Vec<AnchoredHead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredHead {
    pub context: Context,
    pub incarnation: Uuid,
    pub position: Position,
    /// The event at `position`; none in an empty log.
    pub event_id: Option<Uuid>,
    /// Of the chain up to `position`.
    pub hash: Sha256,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    anchor: &'a RawValue,
    key: String,
    signature: String,
}

/// Signs and recognises the anchors of this installation.
pub struct Notary(SigningKey);

impl Notary {
    pub fn of(secrets: &Secrets) -> Result<Self> {
        let pem = secrets.read(KEY_FILE)?;
        Ok(Self(SigningKey::from_pkcs8_pem(&pem).with_context(|| format!("{KEY_FILE} holds no Ed25519 key"))?))
    }

    /// The line of an anchor.
    pub fn line(&self, anchor: &Anchor) -> Result<String> {
        let text = serde_json::to_string(anchor)?;
        let signature = STANDARD.encode(self.0.sign(text.as_bytes()).to_bytes());
        let anchor: &RawValue = serde_json::from_str(&text)?;
        Ok(serde_json::to_string(&Line { anchor, key: encoded(&self.0.verifying_key()), signature })?)
    }

    /// The anchor of a line, or why it is not one of ours.
    pub fn open(&self, line: &str) -> Result<Anchor> {
        let line: Line<'_> = serde_json::from_str(line).context("no anchor")?;
        let own = self.0.verifying_key();
        ensure!(line.key == encoded(&own), "signed with another key than {KEY_FILE} of this installation");
        let signature = STANDARD.decode(&line.signature).context("the signature is not base64")?;
        let signature = Signature::from_slice(&signature).context("the signature is not 64 bytes")?;
        own.verify_strict(line.anchor.get().as_bytes(), &signature)
            .ok()
            .context("the signature does not fit: it was changed")?;
        serde_json::from_str(line.anchor.get()).context("signed, but not understood: made by a newer casitas?")
    }
}

fn encoded(key: &VerifyingKey) -> String {
    STANDARD.encode(key.as_bytes())
}

/// Adds a line to a file, which is made if it is not there; durable when this returns.
pub fn add(file: &Path, line: &str) -> Result<()> {
    let added = (|| {
        let mut opened = OpenOptions::new().append(true).create(true).open(file)?;
        opened.write_all(format!("{line}\n").as_bytes())?;
        opened.sync_all()
    })();
    added.with_context(|| format!("the anchor cannot be added to {}", file.display()))
}

/// The lines of a file with their numbers, from 1.
pub fn lines(file: &Path) -> Result<Vec<(usize, String)>> {
    let text = fs::read_to_string(file).with_context(|| format!("the anchors in {} cannot be read", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lines: Vec<_> = lines.map(|(at, line)| (at + 1, line.to_owned())).collect();
    ensure!(!lines.is_empty(), "{} has no anchor: casitas events anchor FILE adds one", file.display());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        let head = AnchoredHead {
            context: Context::Units,
            incarnation: Uuid::from_u128(1),
            position: 3,
            event_id: Some(Uuid::from_u128(2)),
            hash: Sha256::of(b"x"),
        };
        Anchor { made_at: "2026-11-26T01:02:03Z".parse().expect("a time"), heads: vec![head] }
    }

    #[test]
    fn an_anchor_is_opened_with_its_key_only_and_only_unchanged() {
        let [notary, other] = [1, 2].map(|seed| Notary(SigningKey::from_bytes(&[seed; 32])));
        let line = notary.line(&anchor()).expect("a line");
        assert_eq!(notary.open(&line).expect("ours"), anchor());
        let refused = |notary: &Notary, line: &str| format!("{:#}", notary.open(line).expect_err("refused"));
        assert!(refused(&other, &line).contains("another key"));
        assert!(refused(&notary, &line.replace("\"position\":3", "\"position\":4")).contains("does not fit"));
        assert!(refused(&notary, "{}").contains("no anchor"));
        assert!(refused(&notary, "not JSON").contains("no anchor"));
    }

    #[test]
    fn lines_are_added_and_none_is_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("anchors");
        assert!(lines(&file).is_err());
        add(&file, "a").expect("added");
        add(&file, "b").expect("added");
        assert_eq!(lines(&file).expect("read"), [(1, "a".to_owned()), (2, "b".to_owned())]);
    }
}
