//! Access tokens: EdDSA JWT, 15 minutes, `typ: at+jwt`, `kid` from a local JWKS (RFC 8725, RFC 9068).

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use domain::Timestamp;
use foldhash::quality::RandomState;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode, jwk::JwkSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ISSUER: &str = "casitas";
const AUDIENCE: &str = "casitas-api";
const TYPE: &str = "at+jwt";
/// Seconds an access token lives.
const LIFETIME: i64 = 15 * 60;
const LEEWAY: u64 = 30;
/// Tokens remembered as genuine; about 300 bytes each.
const REMEMBERED_MAX: usize = 10_000;

/// What an access token says. Roles are not in it: they are read live, so that a change takes effect at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessClaims {
    pub iss: String,
    pub aud: String,
    pub sub: Uuid,
    pub exp: i64,
    pub nbf: i64,
    pub iat: i64,
    pub jti: Uuid,
    /// The user's epoch when it was issued; a later epoch (password change, deactivation) ends it.
    pub epoch: u64,
}

/// Issues access tokens. Only where users log in.
pub struct TokenSigner {
    key: EncodingKey,
    kid: String,
}

impl TokenSigner {
    /// From a PKCS#8 PEM of an Ed25519 private key and the `kid` that the JWKS gives its public half.
    pub fn new(pem: &str, kid: impl Into<String>) -> Result<Self, String> {
        let key =
            EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|error| format!("the token key is not readable: {error}"))?;
        Ok(Self { key, kid: kid.into() })
    }

    /// The token and its lifetime in seconds.
    pub fn issue(&self, user: Uuid, epoch: u64, now: Timestamp) -> Result<(String, i64), String> {
        let iat = now.as_second();
        let claims = AccessClaims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: user,
            exp: iat + LIFETIME,
            nbf: iat,
            iat,
            jti: Uuid::now_v7(),
            epoch,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.into());
        header.kid = Some(self.kid.clone());
        let token = encode(&header, &claims, &self.key).map_err(|error| error.to_string())?;
        Ok((token, LIFETIME))
    }
}

/// Checks access tokens with public keys alone.
pub struct TokenVerifier {
    keys: HashMap<String, DecodingKey>,
    jwks: serde_json::Value,
    validation: Validation,
    /// Whole texts, so that only the very same token is found. A signature takes longer to check than an answer to send.
    genuine: RwLock<HashMap<Box<str>, Arc<AccessClaims>, RandomState>>,
}

impl TokenVerifier {
    /// From the text of a JWKS whose keys are Ed25519 with a `kid` each.
    pub fn new(jwks: &str) -> Result<Self, String> {
        let unreadable = |error: &dyn std::fmt::Display| format!("the JWKS is not readable: {error}");
        let set: JwkSet = serde_json::from_str(jwks).map_err(|error| unreadable(&error))?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let kid = jwk.common.key_id.clone().ok_or_else(|| unreadable(&"a key has no kid"))?;
            keys.insert(kid, DecodingKey::from_jwk(jwk).map_err(|error| unreadable(&error))?);
        }
        // jsonwebtoken requires only exp, skips nbf and accepts a missing iss or aud unless told otherwise.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        Ok(Self {
            keys,
            jwks: serde_json::from_str(jwks).map_err(|error| unreadable(&error))?,
            validation,
            genuine: RwLock::default(),
        })
    }

    /// The public keys as served at `/.well-known/jwks.json`.
    pub fn jwks(&self) -> &serde_json::Value {
        &self.jwks
    }

    /// The `kid` of the first key: the one a signer beside this JWKS uses.
    pub fn first_kid(&self) -> Option<String> {
        self.jwks.pointer("/keys/0/kid").and_then(|kid| kid.as_str()).map(Into::into)
    }

    /// `None` for anything but a token that our key signed for us and that is valid now. Headers that point to keys elsewhere
    /// (`jku`, `jwk`, `x5u`) are never looked at.
    pub fn verify(&self, token: &str) -> Option<Arc<AccessClaims>> {
        if let Some(claims) = self.remembered(token) {
            return Some(claims);
        }
        let now = now()?;
        let claims = Arc::new(self.check(token)?);
        if is_current(&claims, now) {
            self.remember(token, claims.clone(), now);
        }
        Some(claims)
    }

    /// The same for a token that was found genuine before; `None` says nothing about it.
    pub fn remembered(&self, token: &str) -> Option<Arc<AccessClaims>> {
        let known = self.genuine.read().expect(UNPOISONED).get(token).cloned()?;
        is_current(&known, now()?).then_some(known)
    }

    fn check(&self, token: &str) -> Option<AccessClaims> {
        let header = decode_header(token).ok()?;
        if header.alg != Algorithm::EdDSA || !header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TYPE)) {
            return None;
        }
        let key = self.keys.get(header.kid.as_deref()?)?;
        decode::<AccessClaims>(token, key, &self.validation).ok().map(|data| data.claims)
    }

    fn remember(&self, token: &str, claims: Arc<AccessClaims>, now: i64) {
        let mut genuine = self.genuine.write().expect(UNPOISONED);
        if genuine.len() >= REMEMBERED_MAX {
            genuine.retain(|_, claims| is_current(claims, now));
        }
        // Still full of valid ones: those in use come back with their next request.
        if genuine.len() >= REMEMBERED_MAX {
            genuine.clear();
        }
        genuine.insert(token.into(), claims);
    }
}

fn now() -> Option<i64> {
    i64::try_from(jsonwebtoken::get_current_timestamp()).ok()
}

/// Without any leeway: at the edges the token itself is checked.
fn is_current(claims: &AccessClaims, now: i64) -> bool {
    claims.nbf <= now && now < claims.exp
}

const UNPOISONED: &str = "the lock of the tokens is never poisoned: nothing under it panics";

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"test","alg":"EdDSA","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn issue(issued: i64) -> String {
        let now = Timestamp::from_second(issued).expect("an instant");
        TokenSigner::new(PEM, "test").expect("a key").issue(Uuid::from_u128(1), 3, now).expect("a token").0
    }

    #[test]
    fn a_remembered_token_is_the_same_one_and_a_forged_or_expired_one_is_never_remembered() {
        let verifier = TokenVerifier::new(JWKS).expect("a JWKS");
        let now = Timestamp::now().as_second();
        let token = issue(now);
        assert!(verifier.remembered(&token).is_none(), "nobody has checked it yet");
        let first = verifier.verify(&token).expect("genuine");
        assert!(Arc::ptr_eq(&first, &verifier.verify(&token).expect("remembered")), "checked once");
        let mut forged = token.clone().into_bytes();
        let last = forged.len() - 5;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        for refused in [String::from_utf8(forged).expect("text"), format!("{token}x"), issue(now - LIFETIME - 60)] {
            assert!(verifier.verify(&refused).is_none() && verifier.remembered(&refused).is_none());
        }
        // Within the leeway: still accepted, each time by its signature.
        assert!(verifier.verify(&issue(now - LIFETIME - 5)).is_some());
        assert_eq!(verifier.genuine.read().expect("not poisoned").len(), 1);
    }

    #[test]
    fn a_remembered_token_expires_and_their_number_is_bounded() {
        let verifier = TokenVerifier::new(JWKS).expect("a JWKS");
        let now = Timestamp::now().as_second();
        let claims = verifier.verify(&issue(now)).expect("genuine");
        assert!(
            is_current(&claims, claims.exp - 1) && !is_current(&claims, claims.exp) && !is_current(&claims, claims.nbf - 1)
        );
        for number in 0..=REMEMBERED_MAX {
            verifier.remember(&number.to_string(), claims.clone(), now);
        }
        assert!(verifier.genuine.read().expect("not poisoned").len() <= REMEMBERED_MAX);
    }
}
