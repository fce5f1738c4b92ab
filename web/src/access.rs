//! Who may call what: a handler's signature states it, e.g. `Allowed<WriteProperties>`.
//!
//! The token says who; roles, epoch and status are read live through [`Principals`], so that a deactivation or a role change
//! takes effect at once.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use domain::auth::matrix::strongest;
use domain::auth::{Access, Capability, Role};
use uuid::Uuid;

use crate::{AccessClaims, Problem, TokenVerifier};

/// A user as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub user_id: Uuid,
    pub username: String,
    pub roles: Vec<Role>,
    /// The party that a tenant is.
    pub party_id: Option<Uuid>,
    pub epoch: u64,
    pub active: bool,
}

/// Reads users as they are now.
#[async_trait]
pub trait Principals: Send + Sync + 'static {
    /// `None` when there is no such user. An error closes every route that is not public.
    async fn principal(&self, user_id: Uuid) -> Result<Option<Arc<Principal>>, ports::Error>;

    /// The same for the bearer of a genuine token of an epoch. A reader that knows the user not yet, or in an earlier epoch, is
    /// behind, and may wait a moment.
    async fn bearer(&self, user_id: Uuid, _epoch: u64) -> Result<Option<Arc<Principal>>, ports::Error> {
        self.principal(user_id).await
    }

    /// The user, when nothing has to be waited for; `None` only says that [`Principals::bearer`] is to be asked.
    fn at_once(&self, _user_id: Uuid) -> Option<Arc<Principal>> {
        None
    }
}

#[derive(Clone)]
pub struct Authenticator {
    pub verifier: Arc<TokenVerifier>,
    pub principals: Arc<dyn Principals>,
}

impl Authenticator {
    /// The caller of a request.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let token = bearer_token(headers)
            .ok_or_else(|| Problem::unauthenticated("send a token: POST /login, then authorization: Bearer <token>"))?;
        let claims = self.verifier.verify(token).ok_or_else(not_valid)?;
        self.bearer(&claims).await
    }

    /// The same by the same checks, when nothing has to be waited for and no signature to be checked. `None` only says that it is
    /// to be asked the other way.
    pub fn authenticate_at_once(&self, headers: &HeaderMap) -> Option<Arc<Principal>> {
        let claims = self.verifier.remembered(bearer_token(headers)?)?;
        self.principals.at_once(claims.sub).filter(|principal| is_bearer(principal, &claims))
    }

    /// The bearer of a genuine token, as they are now.
    async fn bearer(&self, claims: &AccessClaims) -> Result<Arc<Principal>, Problem> {
        let principal = self.principals.bearer(claims.sub, claims.epoch).await?.ok_or_else(not_valid)?;
        is_bearer(&principal, claims).then_some(principal).ok_or_else(not_valid)
    }
}

fn is_bearer(principal: &Principal, claims: &AccessClaims) -> bool {
    principal.active && principal.epoch == claims.epoch
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn not_valid() -> Problem {
    Problem::unauthenticated("the token is not valid or has expired; log in again")
}

/// How much of a capability a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any signed-in user.
    SignedIn,
    /// Reading: all, masked or one's own; the handler narrows by [`Allowed::access`].
    Read,
    Write,
    /// Writing, or signing as the named person.
    Sign,
}

/// A route's rule, as a type.
pub trait Rule: Send + Sync + 'static {
    const NAME: &'static str;
    const CAPABILITIES: &'static [Capability];
    const NEED: Need;
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $need:ident [$($capability:ident),*];)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Rule for $name {
            const NAME: &'static str = stringify!($name);
            const CAPABILITIES: &'static [Capability] = &[$(Capability::$capability),*];
            const NEED: Need = Need::$need;
        }
    )*};
}

rules! {
    SignedIn: SignedIn [];
    ReadUsers: Read [Users];
    EditUsers: Write [Users];
    ReadProperties: Read [Properties];
    WriteProperties: Write [Properties];
    ReadParties: Read [Parties];
    WriteParties: Write [Parties];
    ReadLeases: Read [Leases];
    WriteLeases: Write [Leases];
    /// The named signer, whoever that is.
    SignLeases: Sign [Leases];
    ReadLedgers: Read [Ledgers];
    WriteLedgers: Write [Ledgers];
    FinanceReports: Write [FinanceReports];
    LegalReports: Write [LegalReports];
    /// One of the kinds of reports; the handler checks which.
    ReadAnyReport: Read [FinanceReports, LegalReports];
}

/// Whose data a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Everyone,
    /// Only what belongs to this party.
    Party(Uuid),
}

/// A caller that the rule `R` allows.
pub struct Allowed<R: Rule> {
    pub principal: Arc<Principal>,
    /// The strongest access that the caller's roles give to the rule's first capability.
    pub access: Access,
    rule: PhantomData<R>,
}

impl<R: Rule> Allowed<R> {
    /// `user:<id>`, as events name it.
    pub fn actor(&self) -> String {
        format!("user:{}", self.principal.user_id)
    }

    pub fn access_to(&self, capability: Capability) -> Access {
        strongest(self.principal.roles.iter().copied(), capability)
    }

    /// Whether the caller sees everybody's or only their own. A caller who may see only their own and is no party sees nothing.
    pub fn own(&self) -> Result<Own, Problem> {
        match self.access {
            Access::Own | Access::OwnSign => {
                self.principal.party_id.map(Own::Party).ok_or_else(|| Problem::not_found("thing"))
            }
            Access::None | Access::Read | Access::Masked | Access::Propose | Access::Write => Ok(Own::Everyone),
        }
    }
}

impl<R: Rule, S> FromRequestParts<S> for Allowed<R>
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = Authenticator::from_ref(state).authenticate(&parts.headers).await?;
        if !permits::<R>(&principal) {
            return Err(Problem::forbidden());
        }
        let access = R::CAPABILITIES
            .first()
            .map_or(Access::None, |capability| strongest(principal.roles.iter().copied(), *capability));
        Ok(Self { principal, access, rule: PhantomData })
    }
}

/// Whether a rule allows a caller: what [`Allowed`] asks.
pub fn permits<R: Rule>(principal: &Principal) -> bool {
    let access = |capability: &Capability| strongest(principal.roles.iter().copied(), *capability);
    R::NEED == Need::SignedIn || R::CAPABILITIES.iter().any(|capability| suffices(access(capability), R::NEED))
}

fn suffices(access: Access, need: Need) -> bool {
    match (need, access) {
        (Need::SignedIn, _) => true,
        (Need::Read, Access::Read | Access::Masked | Access::Own | Access::OwnSign | Access::Write) => true,
        (Need::Write, Access::Write) => true,
        (Need::Sign, Access::Write | Access::OwnSign) => true,
        (Need::Read | Need::Write | Need::Sign, _) => false,
    }
}
