//! Users as the `users` model has them now, for the access rules of this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::UserId;
use domain::auth::UserStatus;
use ports::Error;
use read_models::users::UserOut;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use web::{Principal, Principals};

use crate::reader::{Reader, Wish};
use crate::routes::users::UserById;

/// How long a request waits for a view that is behind: the user of a genuine token exists, in the token's epoch at least.
const BEHIND_MAX: Duration = Duration::from_secs(2);

pub struct ViewPrincipals {
    reader: Reader,
}

impl ViewPrincipals {
    pub fn new(reader: Reader) -> Self {
        Self { reader }
    }

    async fn user(&self, user_id: Uuid) -> Result<Option<Arc<UserOut>>, Error> {
        let query = Arc::new(UserById { user_id: UserId(user_id) });
        match self.reader.read(query, &Wish::default()).await {
            Ok(served) => served.map(|served| served.entry.value()).transpose(),
            Err(error) => Err(Error::unavailable("the users' read model", error)),
        }
    }
}

#[async_trait]
impl Principals for ViewPrincipals {
    async fn principal(&self, user_id: Uuid) -> Result<Option<Principal>, Error> {
        Ok(self.user(user_id).await?.map(|user| principal(&user)))
    }

    async fn bearer(&self, user_id: Uuid, epoch: u64) -> Result<Option<Principal>, Error> {
        let deadline = Instant::now() + BEHIND_MAX;
        let mut polls = self.reader.feed().polls();
        loop {
            polls.borrow_and_update();
            let user = self.user(user_id).await?;
            let is_behind = user.as_ref().is_none_or(|user| user.epoch < epoch);
            if !is_behind || timeout_at(deadline, polls.changed()).await.is_err() {
                return Ok(user.map(|user| principal(&user)));
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
