//! The shortest way to a public answer: by the address as it was sent, before it is routed, parsed or brought into a canonical
//! form. What may be served is decided as in the in-process tier, whose entries these are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::response::Response;

use crate::entry::Entry;
use crate::reader::{Reader, Served, Source};
use crate::respond::respond_public;

/// Bytes of the answers that are reachable by an address; more, and all are forgotten. Most are the in-process tier's too.
const BYTES_MAX: usize = 16 * 1024 * 1024;

struct Ready {
    entry: Arc<Entry>,
    /// The feed's count of clears from before the entry was read: a later clear ends it.
    clears: u64,
    /// The feed's version at which the entry was last found to be current.
    admitted: AtomicU64,
    route: &'static str,
}

#[derive(Default)]
struct Known {
    by_target: HashMap<Box<str>, Arc<Ready>>,
    bytes: usize,
}

#[derive(Default)]
pub struct Lane(RwLock<Known>);

impl Lane {
    /// Keeps what was just answered to a public request without a position token; `clears` is from before it was read.
    pub fn keep(&self, uri: &Uri, route: &'static str, entry: &Arc<Entry>, clears: u64) {
        let Some(target) = uri.path_and_query().map(|target| target.as_str()) else { return };
        let weight = target.len() + entry.weight();
        let ready = Ready { entry: entry.clone(), clears, admitted: AtomicU64::new(0), route };
        let mut known = self.0.write().expect(UNPOISONED);
        if known.bytes + weight > BYTES_MAX {
            *known = Known::default();
        }
        known.bytes += weight;
        if let Some(before) = known.by_target.insert(target.into(), Arc::new(ready)) {
            known.bytes = known.bytes.saturating_sub(target.len() + before.entry.weight());
        }
    }

    pub fn answer(&self, reader: &Reader, request: &Request) -> Option<(Response, &'static str)> {
        if request.method() != Method::GET || request.headers().contains_key("casitas-min-position") {
            return None;
        }
        let target = request.uri().path_and_query()?.as_str();
        let ready = self.0.read().expect(UNPOISONED).by_target.get(target).cloned()?;
        let feed = reader.feed();
        let now = reader.now();
        let known_at = feed.known_at(now)?;
        if ready.clears != feed.clears() || !ready.entry.holds_at(now) {
            return None;
        }
        let version = feed.version();
        if ready.admitted.load(Ordering::Acquire) != version {
            if !feed.admits(&ready.entry.deps) {
                return None;
            }
            ready.admitted.store(version, Ordering::Release);
        }
        reader.count_hit();
        let served = Served { entry: ready.entry.clone(), source: Source::Memory, now, known_at: Some(known_at) };
        Some((respond_public(&served, request.headers(), request.uri()), ready.route))
    }
}

const UNPOISONED: &str = "the lane's lock is never poisoned: nothing under it panics";
