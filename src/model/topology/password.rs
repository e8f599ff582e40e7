//! Password hashes as RabbitMQ stores them: base64 of four bytes of salt and the digest of salt and password.
//!
//! Need: hashes that were exported elsewhere keep working. Shape: the algorithm travels under RabbitMQ's module name.
//! Invariant: verifying takes the same steps whatever is wrong. Not here: who may log in, and from where.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

const SALT_BYTES: usize = 4;

/// How a password was hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hashing {
    /// `rabbit_password_hashing_sha256`, what new passwords are hashed with if nothing else is configured.
    #[default]
    Sha256,
    /// `rabbit_password_hashing_sha512`.
    Sha512,
    /// `rabbit_password_hashing_md5`, of very old brokers.
    Md5,
}

impl Hashing {
    /// RabbitMQ's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// By RabbitMQ's name, in full or only its end.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name
            .strip_prefix("rabbit_password_hashing_")
            .unwrap_or(name)
        {
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            "md5" => Some(Self::Md5),
            _ => None,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
        }
    }

    fn digest(self, salt: &[u8], password: &str) -> Vec<u8> {
        fn of<D: Digest>(salt: &[u8], password: &str) -> Vec<u8> {
            let mut hash = D::new();
            hash.update(salt);
            hash.update(password.as_bytes());
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha256 => of::<Sha256>(salt, password),
            Self::Sha512 => of::<Sha512>(salt, password),
            Self::Md5 => of::<md5::Md5>(salt, password),
        }
    }

    /// The kind of a hash, by its length.
    #[must_use]
    pub fn of(stored: &str) -> Option<Self> {
        let kinds = [Self::Sha256, Self::Sha512, Self::Md5];
        kinds.into_iter().find(|kind| kind.is_hash(stored))
    }

    /// Whether `stored` is a hash of this kind at all.
    #[must_use]
    pub fn is_hash(self, stored: &str) -> bool {
        let bytes = STANDARD.decode(stored);
        bytes.is_ok_and(|bytes| bytes.len() == SALT_BYTES + self.len())
    }

    /// Whether `password` is what was hashed. Empty passwords and unreadable hashes never match, in the same time.
    pub(super) fn verify(self, stored: Option<&str>, password: &str) -> bool {
        let bytes = stored.and_then(|stored| STANDARD.decode(stored).ok());
        let bytes = bytes.filter(|bytes| bytes.len() == SALT_BYTES + self.len());
        let known = bytes.is_some();
        let bytes = bytes.unwrap_or_else(|| vec![0; SALT_BYTES + self.len()]);
        let (salt, expected) = bytes.split_at(SALT_BYTES);
        let actual = self.digest(salt, password);
        let differing = (expected.iter().zip(&actual)).fold(0, |bits, (a, b)| bits | (a ^ b));
        known & (std::hint::black_box(differing) == 0) & !password.is_empty()
    }
}

/// Base64 of salt and the digest of salt and password, as RabbitMQ's module of this name makes it.
#[must_use]
pub fn hash_password(hashing: Hashing, salt: [u8; 4], password: &str) -> String {
    let mut bytes = salt.to_vec();
    bytes.extend_from_slice(&hashing.digest(&salt, password));
    STANDARD.encode(bytes)
}
