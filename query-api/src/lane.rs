//! The shortest way to an answer: by the address as it was sent, before it is routed, parsed or brought into a canonical form.
//! What may be served is decided as in the in-process tier, whose entries these are; who may see it, as on the route.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::response::Response;
use web::{Authenticator, Principal};

use crate::kept::Kept;
use crate::reader::Reader;
use crate::respond::{Audience, accepts_gzip, respond_at_once};

/// Bytes of the answers that are reachable by an address; more, and all are forgotten. Most are the in-process tier's too.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whom the same answer is for.
#[derive(Clone, Copy)]
pub enum Reach {
    /// Everybody, and it may lag.
    Public,
    /// Every caller that the route's rule allows.
    Allowed(fn(&Principal) -> bool),
}

struct Ready {
    entry: Arc<Kept>,
    reach: Reach,
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
    /// Keeps what was just answered to a request without a position token. What is asked for once is not kept: `is_hit` says
    /// that it was asked for before.
    pub fn keep(&self, uri: &Uri, route: &'static str, reach: Reach, entry: &Arc<Kept>, is_hit: bool) {
        let Some(target) = uri.path_and_query().map(|target| target.as_str()) else { return };
        if !is_hit && !self.0.read().expect(UNPOISONED).by_target.contains_key(target) {
            return;
        }
        let weight = target.len() + entry.weight();
        let ready = Ready { entry: entry.clone(), reach, route };
        let mut known = self.0.write().expect(UNPOISONED);
        if known.bytes + weight > BYTES_MAX {
            *known = Known::default();
        }
        known.bytes += weight;
        if let Some(before) = known.by_target.insert(target.into(), Arc::new(ready)) {
            known.bytes = known.bytes.saturating_sub(target.len() + before.entry.weight());
        }
    }

    pub fn answer(
        &self,
        reader: &Reader,
        authenticator: &Authenticator,
        request: &Request,
    ) -> Option<(Response, &'static str)> {
        let headers = request.headers();
        if request.method() != Method::GET || headers.contains_key("casitas-min-position") {
            return None;
        }
        let target = request.uri().path_and_query()?.as_str();
        let ready = self.0.read().expect(UNPOISONED).by_target.get(target).cloned()?;
        let (may_lag, audience) = match ready.reach {
            Reach::Public => (true, Audience::Public),
            Reach::Allowed(permits) => {
                // Whoever is refused, or has to be waited for, gets the route's answer.
                authenticator.authenticate_at_once(headers).filter(|principal| permits(principal))?;
                (false, Audience::Private)
            }
        };
        let served = ready.entry.serve(reader.feed(), reader.now(), may_lag)?;
        // The route compresses it, and shares that.
        if served.entry.is_unpacked() && accepts_gzip(headers) {
            return None;
        }
        reader.count(served.source);
        Some((respond_at_once(&served, headers, request.uri(), audience), ready.route))
    }
}

const UNPOISONED: &str = "the lane's lock is never poisoned: nothing under it panics";
