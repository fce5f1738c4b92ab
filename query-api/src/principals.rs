//! Users as the `users` model has them now, for the access rules of this process.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::UserId;
use domain::auth::UserStatus;
use ports::Error;
use read_models::users::UserOut;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use web::{Principal, Principals};

use crate::kept::Kept;
use crate::reader::{Reader, Source, Wish};
use crate::routes::users::UserById;

/// How long a request waits for a view that is behind: the user of a genuine token exists, in the token's epoch at least. Less than
/// a GET has in all: in the end it is refused, not given up.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// Users remembered; more, and all are forgotten.
const KNOWN_MAX: usize = 10_000;

pub struct ViewPrincipals {
    reader: Reader,
    /// What was read from the in-process tier's entries. Each is judged by its entry before it is used.
    known: RwLock<HashMap<Uuid, Arc<Known>>>,
}

struct Known {
    entry: Arc<Kept>,
    principal: Arc<Principal>,
}

impl ViewPrincipals {
    pub fn new(reader: Reader) -> Self {
        Self { reader, known: RwLock::default() }
    }

    async fn user(&self, user_id: Uuid) -> Result<Option<Arc<Principal>>, Error> {
        if let Some(principal) = self.at_once(user_id) {
            return Ok(Some(principal));
        }
        let query = Arc::new(UserById { user_id: UserId(user_id) });
        let served = match self.reader.read(query, &Wish::default()).await {
            Ok(Some(served)) => served,
            Ok(None) => return Ok(None),
            Err(error) => return Err(Error::unavailable("the users' read model", error)),
        };
        let principal = Arc::new(principal(&*served.entry.value()?));
        if self.reader.keeps_in_memory() && served.source != Source::Bypassed {
            self.remember(user_id, Known { entry: served.entry, principal: principal.clone() });
        }
        Ok(Some(principal))
    }

    fn remember(&self, user_id: Uuid, user: Known) {
        let mut known = self.known.write().expect(UNPOISONED);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(user_id, Arc::new(user));
    }
}

#[async_trait]
impl Principals for ViewPrincipals {
    async fn principal(&self, user_id: Uuid) -> Result<Option<Arc<Principal>>, Error> {
        self.user(user_id).await
    }

    /// When what is remembered is current: as strict as [`Reader::read`] is, without making a key.
    fn at_once(&self, user_id: Uuid) -> Option<Arc<Principal>> {
        let known = self.known.read().expect(UNPOISONED).get(&user_id).cloned()?;
        let served = known.entry.serve(self.reader.feed(), self.reader.now(), false)?;
        self.reader.count(served.source);
        Some(known.principal.clone())
    }

    async fn bearer(&self, user_id: Uuid, epoch: u64) -> Result<Option<Arc<Principal>>, Error> {
        let is_behind = |user: &Option<Arc<Principal>>| user.as_ref().is_none_or(|user| user.epoch < epoch);
        let user = self.at_once(user_id);
        if !is_behind(&user) {
            return Ok(user);
        }
        let deadline = Instant::now() + BEHIND_MAX;
        let mut polls = self.reader.feed().polls();
        loop {
            polls.borrow_and_update();
            let user = self.user(user_id).await?;
            if !is_behind(&user) || timeout_at(deadline, polls.changed()).await.is_err() {
                return Ok(user);
            }
        }
    }
}

fn principal(user: &UserOut) -> Principal {
    Principal {
        user_id: user.user_id.0,
        username: user.username.clone(),
        roles: user.roles.iter().map(|role| role.role).collect(),
        party_id: user.party_id.map(|party| party.0),
        epoch: user.epoch,
        active: user.status == UserStatus::Active,
    }
}

const UNPOISONED: &str = "the lock of the users is never poisoned: nothing under it panics";
