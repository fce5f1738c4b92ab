//! What a password must be, and how its hash is carried.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{RefusalClass, Refused};

pub const PASSWORD_CHARS_MIN: usize = 12;
/// Bounds the work of hashing; far above NIST's least maximum of 64.
pub const PASSWORD_CHARS_MAX: usize = 256;
/// The seed's password: allowed only where the demo data was asked for.
pub const DEMO_PASSWORD: &str = "password123";

/// An Argon2id hash in PHC form. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    pub fn new(phc: impl Into<String>) -> Self {
        Self(phc.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    #[error("a password has at least {PASSWORD_CHARS_MIN} characters")]
    Weak,
    #[error("a password has at most {PASSWORD_CHARS_MAX} characters")]
    TooLong,
}

impl Refused for PasswordFault {
    fn code(&self) -> &'static str {
        match self {
            Self::Weak => "WEAK_PASSWORD",
            Self::TooLong => "VALIDATION_FAILED",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Weak => RefusalClass::Policy,
            Self::TooLong => RefusalClass::Invalid,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Weak => json!({ "min_chars": PASSWORD_CHARS_MIN }),
            Self::TooLong => json!({ "max_chars": PASSWORD_CHARS_MAX }),
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        Some("/password")
    }
}

/// `demo` says that the demo data was asked for; then its one short password passes too.
pub fn check_password(password: &str, demo: bool) -> Result<(), PasswordFault> {
    if demo && password == DEMO_PASSWORD {
        return Ok(());
    }
    match password.chars().count() {
        ..PASSWORD_CHARS_MIN => Err(PasswordFault::Weak),
        PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX => Ok(()),
        _ => Err(PasswordFault::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eleven_characters_are_weak() {
        assert_eq!(check_password("elevenchars", false), Err(PasswordFault::Weak));
        assert_eq!(check_password("ñandúñandúñ", false), Err(PasswordFault::Weak));
        assert_eq!(check_password("twelve chars", false), Ok(()));
        assert_eq!(check_password(&"x".repeat(257), false), Err(PasswordFault::TooLong));
    }

    #[test]
    fn the_demo_password_passes_only_in_the_demo() {
        assert_eq!(check_password(DEMO_PASSWORD, false), Err(PasswordFault::Weak));
        assert_eq!(check_password(DEMO_PASSWORD, true), Ok(()));
        assert_eq!(check_password("password124", true), Err(PasswordFault::Weak));
    }

    #[test]
    fn a_hash_is_not_printed() {
        assert!(!format!("{:?}", PasswordHash::new("$argon2id$secret")).contains("secret"));
    }
}
