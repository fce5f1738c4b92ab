//! Access tokens that are none.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

pub struct Corpus {
    /// As the system itself would sign it.
    pub control: String,
    pub forged: Vec<(&'static str, String)>,
}

fn part(token: &str, at: usize) -> Result<Value> {
    let text = token.split('.').nth(at).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?)
}

/// Whose token it is.
pub fn subject(token: &str) -> Result<String> {
    part(token, 1)?["sub"].as_str().map(str::to_owned).context("no sub")
}

fn body(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let body = body(header, claims);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(body.as_bytes()).to_bytes());
    format!("{body}.{signature}")
}

fn keyed(secret: &[u8], header: &Value, claims: &Value) -> Result<String> {
    let body = body(header, claims);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)?;
    mac.update(body.as_bytes());
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
}

fn with(object: &Value, field: &str, value: Value) -> Value {
    let mut changed = object.clone();
    changed[field] = value;
    changed
}

fn without(object: &Value, field: &str) -> Value {
    let mut changed = object.clone();
    if let Some(fields) = changed.as_object_mut() {
        fields.remove(field);
    }
    changed
}

/// The same caller's token, valid for other minutes: both are seconds from now.
pub fn shifted(token: &str, pem: &str, not_before: i64, expires: i64) -> Result<String> {
    let key = SigningKey::from_pkcs8_pem(pem).map_err(|error| anyhow::anyhow!("jwt.pem: {error}"))?;
    let now = super::dates::now().as_secs() as i64;
    let claims = with(&part(token, 1)?, "nbf", json!(now + not_before));
    let claims = with(&claims, "iat", json!(now + not_before));
    Ok(signed(&key, &part(token, 0)?, &with(&claims, "exp", json!(now + expires))))
}

/// Everything that must be refused, from a token that is accepted, the key that signed it and the public keys.
pub fn corpus(token: &str, pem: &str, jwks: &str) -> Result<Corpus> {
    let key = SigningKey::from_pkcs8_pem(pem).map_err(|error| anyhow::anyhow!("jwt.pem: {error}"))?;
    let foreign = SigningKey::from_bytes(&[7; 32]);
    let (header, claims) = (part(token, 0)?, part(token, 1)?);
    let public: Value = serde_json::from_str(jwks)?;
    let x = public["keys"][0]["x"].as_str().context("no public key")?.to_owned();
    let foreign_x = URL_SAFE_NO_PAD.encode(foreign.verifying_key().as_bytes());
    let now = super::dates::now().as_secs();
    let none = |alg: &str| format!("{}.", body(&with(&header, "alg", json!(alg)), &claims));
    let hs256 = with(&header, "alg", json!("HS256"));
    let signature = token.rsplit('.').next().unwrap_or_default();
    let foreign_jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": foreign_x, "alg": "EdDSA"});
    let epoch = claims["epoch"].as_u64().unwrap_or(0);
    let claim = |field: &str, value: Value| signed(&key, &header, &with(&claims, field, value));
    let no_claim = |field: &str| signed(&key, &header, &without(&claims, field));
    let head = |field: &str, value: Value| signed(&key, &with(&header, field, value), &claims);
    let forged = vec![
        ("alg none", none("none")),
        ("alg None", none("None")),
        ("alg nOnE with the old signature", format!("{}.{signature}", body(&with(&header, "alg", json!("nOnE")), &claims))),
        ("HS256 with the public key's bytes", keyed(&URL_SAFE_NO_PAD.decode(&x)?, &hs256, &claims)?),
        ("HS256 with the public key's text", keyed(x.as_bytes(), &hs256, &claims)?),
        ("HS256 with the JWKS", keyed(jwks.as_bytes(), &hs256, &claims)?),
        ("HS256 with nothing", keyed(b"", &hs256, &claims)?),
        ("alg RS256", head("alg", json!("RS256"))),
        ("no alg", signed(&key, &without(&header, "alg"), &claims)),
        ("a foreign key", signed(&foreign, &header, &claims)),
        ("a foreign key in jwk", signed(&foreign, &with(&header, "jwk", foreign_jwk), &claims)),
        ("a foreign key at jku", signed(&foreign, &with(&header, "jku", json!("http://127.0.0.1:9/jwks.json")), &claims)),
        ("a foreign key at x5u", signed(&foreign, &with(&header, "x5u", json!("http://127.0.0.1:9/x5u")), &claims)),
        ("another kid", head("kid", json!("another"))),
        ("a kid that is a path", head("kid", json!("../../../dev/null"))),
        ("no kid", signed(&key, &without(&header, "kid"), &claims)),
        ("typ JWT", head("typ", json!("JWT"))),
        ("no typ", signed(&key, &without(&header, "typ"), &claims)),
        ("another iss", claim("iss", json!("somebody"))),
        ("no iss", no_claim("iss")),
        ("another aud", claim("aud", json!("other-api"))),
        ("no aud", no_claim("aud")),
        ("expired", claim("exp", json!(now - 60))),
        ("no exp", no_claim("exp")),
        ("exp as text", claim("exp", json!("4102444800"))),
        ("not yet valid", claim("nbf", json!(now + 600))),
        ("no nbf", no_claim("nbf")),
        ("nbf as text", claim("nbf", json!("0"))),
        ("no sub", no_claim("sub")),
        ("sub of nobody", claim("sub", json!("019b2f6e-7c1a-7e53-9d44-1f0c5a7b2e10"))),
        ("sub that is no id", claim("sub", json!("admin"))),
        ("an epoch to come", claim("epoch", json!(epoch + 1))),
        ("an epoch as text", claim("epoch", json!(epoch.to_string()))),
        (
            "other claims under the old signature",
            format!("{}.{signature}", body(&header, &with(&claims, "exp", json!(now + 9_999)))),
        ),
        ("half a signature", token[..token.len() - signature.len() / 2].to_owned()),
        ("no signature", body(&header, &claims)),
        ("five parts", format!("{token}.a.b")),
        ("text", "password123".to_owned()),
    ];
    Ok(Corpus { control: signed(&key, &header, &claims), forged })
}
