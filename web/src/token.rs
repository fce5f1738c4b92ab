//! Access tokens: EdDSA JWT, 15 minutes, `typ: at+jwt`, `kid` from a local JWKS (RFC 8725, RFC 9068).

use std::collections::HashMap;

use domain::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode, jwk::JwkSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ISSUER: &str = "casitas";
const AUDIENCE: &str = "casitas-api";
const TYPE: &str = "at+jwt";
/// Seconds an access token lives.
const LIFETIME: i64 = 15 * 60;
const LEEWAY: u64 = 30;

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
        Ok(Self { keys, jwks: serde_json::from_str(jwks).map_err(|error| unreadable(&error))?, validation })
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
    pub fn verify(&self, token: &str) -> Option<AccessClaims> {
        let header = decode_header(token).ok()?;
        if header.alg != Algorithm::EdDSA || !header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TYPE)) {
            return None;
        }
        let key = self.keys.get(header.kid.as_deref()?)?;
        decode::<AccessClaims>(token, key, &self.validation).ok().map(|data| data.claims)
    }
}
