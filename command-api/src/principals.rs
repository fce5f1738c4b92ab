//! Users as they are now, read from the auth log: a deactivation takes effect with the next request.

use async_trait::async_trait;
use commands::{CommandError, Handler};
use domain::auth::User;
use uuid::Uuid;
use web::{Principal, Principals};

pub struct LogPrincipals {
    handler: Handler,
}

impl LogPrincipals {
    pub fn new(handler: Handler) -> Self {
        Self { handler }
    }
}

#[async_trait]
impl Principals for LogPrincipals {
    async fn principal(&self, user_id: Uuid) -> Result<Option<Principal>, ports::Error> {
        let loaded = match self.handler.load::<User>(user_id.to_string()).await {
            Ok(loaded) => loaded,
            Err(CommandError::Port(error)) => return Err(error),
            Err(other) => return Err(ports::Error::corrupt(other.to_string())),
        };
        if loaded.version == 0 {
            return Ok(None);
        }
        let user = &loaded.state;
        Ok(Some(Principal {
            user_id,
            username: user.username().to_owned(),
            roles: user.roles().into_iter().collect(),
            party_id: user.party_id().map(|party| party.0),
            epoch: user.epoch(),
            active: user.is_active(),
        }))
    }
}
