//! Artifacts in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use domain::Sha256;
use ports::{Artifacts, Result};

use crate::fate::{Gate, Kind};

#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<String, Bytes>>);

impl Shelf {
    pub fn holds(&self, sha256: &str) -> bool {
        self.0.lock().expect("nothing panics under this lock").contains_key(sha256)
    }
}

pub struct SimShelf {
    pub gate: Gate,
    pub shelf: Arc<Shelf>,
}

#[async_trait]
impl Artifacts for SimShelf {
    async fn put(&self, bytes: Bytes) -> Result<String> {
        let (shelf, name) = (self.shelf.clone(), Sha256::of(&bytes).to_string());
        let work = async move {
            shelf.0.lock().expect("nothing panics under this lock").insert(name.clone(), bytes);
            Ok(name)
        };
        self.gate.call(Kind::Write, "put artifact".into(), |_| "stored".into(), work).await
    }

    async fn get(&self, sha256: &str) -> Result<Option<Bytes>> {
        let (shelf, name) = (self.shelf.clone(), sha256.to_owned());
        let work = async move { Ok(shelf.0.lock().expect("nothing panics under this lock").get(&name).cloned()) };
        self.gate.call(Kind::Read, "get artifact".into(), |_| "got".into(), work).await
    }
}
