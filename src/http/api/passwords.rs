//! What a new password must be like, and how it is hashed: RabbitMQ's `credential_validator.*` and `password_hashing_module`.
//!
//! Limits: a pattern that takes too many steps is not found. Not here: hashes that are given as such, which are taken as they are.

use super::error::ApiError;
use super::list;
use crate::model::topology::{Hashing, hash_password};

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passwords {
    /// How new ones are hashed.
    pub hashing: Hashing,
    /// What they must be like.
    pub rule: PasswordRule,
}

/// What a new password must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PasswordRule {
    /// Anything but empty.
    #[default]
    Any,
    /// At least so many bytes.
    Longer(usize),
    /// This pattern is found in it.
    Like(String),
}

impl Passwords {
    /// The hash of a new password.
    ///
    /// # Errors
    /// 400 for one that is not as it must be.
    pub fn hash(&self, password: &str) -> Result<(String, Hashing), ApiError> {
        if password.is_empty() {
            return Err(ApiError::bad_request("Empty passwords are not allowed"));
        }
        match &self.rule {
            PasswordRule::Longer(min) if password.len() < *min => Err(ApiError::bad_request(
                format!("minimum required password length: {min}"),
            )),
            PasswordRule::Like(pattern)
                if !list::pattern(pattern, "")?
                    .is_match(password)
                    .unwrap_or(false) =>
            {
                Err(ApiError::bad_request(
                    "provided password does not match the validator's regular expression",
                ))
            }
            _ => Ok((
                hash_password(self.hashing, rand::random(), password),
                self.hashing,
            )),
        }
    }
}
