//! Encrypted values, as RabbitMQ's tools make and read them (`credentials_obfuscation_pbe.erl`).
//!
//! Shape: base64 of salt (16 bytes), initial vector (16), and the value as an Erlang term, encrypted by AES in CBC with
//! PKCS #7's padding. The key is the passphrase's, by PBKDF2. Limits: terms are strings, binaries, atoms and small integers;
//! keys of 128 and 256 bits; hashes SHA-256 and SHA-512.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Sha256, Sha512};

const SALT_BYTES: usize = 16;
const VECTOR_BYTES: usize = 16;
const KEY_BYTES_MAX: usize = 32;
/// Versions and tags of Erlang's external term format.
const VERSION: u8 = 131;
const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const ATOM_UTF8: u8 = 118;
const SMALL_ATOM_UTF8: u8 = 119;
const ATOM: u8 = 100;
const STRING: u8 = 107;
const BINARY: u8 = 109;

/// What is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// `<<"…">>`
    Binary(Vec<u8>),
    /// `"…"`
    Text(Vec<u8>),
    /// A bare word.
    Atom(String),
    /// A number of 32 bits.
    Integer(i32),
}

/// How the key is made of the passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passphrase {
    /// The passphrase; never shown.
    pub text: String,
    /// Rounds, from 1.
    pub iterations: u32,
    /// SHA-512 in place of SHA-256.
    pub sha512: bool,
    /// A key of 256 bits in place of 128.
    pub long: bool,
}

impl Passphrase {
    /// As RabbitMQ's tools use it when they are told no more: found from what those of 4.0.5 wrote.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            iterations: 1,
            sha512: false,
            long: false,
        }
    }

    fn key(&self, salt: &[u8]) -> Vec<u8> {
        let length = if self.long {
            KEY_BYTES_MAX
        } else {
            KEY_BYTES_MAX / 2
        };
        let (phrase, mut key) = (self.text.as_bytes(), vec![0; length]);
        match self.sha512 {
            true => pbkdf2::pbkdf2_hmac::<Sha512>(phrase, salt, self.iterations, &mut key),
            false => pbkdf2::pbkdf2_hmac::<Sha256>(phrase, salt, self.iterations, &mut key),
        }
        key
    }

    fn sealed(&self, salt: &[u8], vector: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.key(salt);
        Some(match self.long {
            true => cbc::Encryptor::<Aes256>::new_from_slices(&key, vector)
                .ok()?
                .encrypt_padded_vec_mut::<Pkcs7>(plain),
            false => cbc::Encryptor::<Aes128>::new_from_slices(&key, vector)
                .ok()?
                .encrypt_padded_vec_mut::<Pkcs7>(plain),
        })
    }

    fn opened(&self, salt: &[u8], vector: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let key = self.key(salt);
        let opened = match self.long {
            true => cbc::Decryptor::<Aes256>::new_from_slices(&key, vector)
                .ok()?
                .decrypt_padded_vec_mut::<Pkcs7>(sealed),
            false => cbc::Decryptor::<Aes128>::new_from_slices(&key, vector)
                .ok()?
                .decrypt_padded_vec_mut::<Pkcs7>(sealed),
        };
        opened.ok()
    }

    /// Encrypts, with dice for salt and vector.
    #[must_use]
    pub fn encrypt(&self, term: &Term, dice: [u8; SALT_BYTES + VECTOR_BYTES]) -> String {
        let (salt, vector) = dice.split_at(SALT_BYTES);
        let mut out = dice.to_vec();
        // Salt and vector are as long as they must be.
        let sealed = self.sealed(salt, vector, &term.encoded());
        out.extend(sealed.unwrap_or_default());
        STANDARD.encode(out)
    }

    /// Decrypts; `None` for another passphrase, or what is none of ours.
    #[must_use]
    pub fn decrypt(&self, text: &str) -> Option<Term> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let (salt, rest) = bytes.split_at_checked(SALT_BYTES)?;
        let (vector, rest) = rest.split_at_checked(VECTOR_BYTES)?;
        Term::decoded(&self.opened(salt, vector, rest)?)
    }
}

impl Term {
    /// The value without its quotes.
    #[must_use]
    pub fn plain(&self) -> Option<String> {
        match self {
            Self::Binary(bytes) | Self::Text(bytes) => String::from_utf8(bytes.clone()).ok(),
            Self::Atom(name) => Some(name.clone()),
            Self::Integer(number) => Some(number.to_string()),
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        match self {
            // The short form of a string holds 65535 bytes at most; a binary says the same to who reads it here.
            Self::Text(bytes) if u16::try_from(bytes.len()).is_ok() => {
                out.push(STRING);
                out.extend(&length(bytes)[2..]);
                out.extend(bytes);
            }
            Self::Binary(bytes) | Self::Text(bytes) => {
                out.push(BINARY);
                out.extend(length(bytes));
                out.extend(bytes);
            }
            Self::Atom(name) => {
                out.push(ATOM_UTF8);
                out.extend(&length(name.as_bytes())[2..]);
                out.extend(name.as_bytes());
            }
            Self::Integer(number) => {
                out.push(INTEGER);
                out.extend(number.to_be_bytes());
            }
        }
        out
    }

    fn decoded(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(2)?;
        let [VERSION, tag] = *head else { return None };
        let sized = |width: usize| -> Option<&[u8]> {
            let (length, rest) = rest.split_at_checked(width)?;
            let length = length
                .iter()
                .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            (rest.len() == length).then_some(rest)
        };
        let word = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        match tag {
            BINARY => sized(4).map(|bytes| Self::Binary(bytes.to_vec())),
            STRING => sized(2).map(|bytes| Self::Text(bytes.to_vec())),
            ATOM | ATOM_UTF8 => word(sized(2)?).map(Self::Atom),
            SMALL_ATOM_UTF8 => word(sized(1)?).map(Self::Atom),
            SMALL_INTEGER => Some(Self::Integer(i32::from(*rest.first()?))),
            INTEGER => Some(Self::Integer(i32::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn passphrase(iterations: u32) -> Passphrase {
        Passphrase {
            iterations,
            ..Passphrase::new("pw")
        }
    }

    #[test]
    fn what_rabbitmqs_tools_encrypted_is_read() {
        let hello = b"hello".to_vec();
        for (text, iterations, want) in [
            (
                "DGRTWzyKa17fwzBxHbFaVh/5gbUh+jcnv5Nt2OM968hyOkir+0+2368RU7OiyDwJ",
                1,
                Term::Binary(hello.clone()),
            ),
            (
                "IZBUsqWoW3Hj+mxqiVdD3HjGxLiUqKC7oRvxledO5NBUAljujJ0SzaFFk9oQiLuX",
                1,
                Term::Atom("hello".to_owned()),
            ),
            (
                "VrFnxjpIrERIaa6XV/R7aXqDBEEStm3aXx56ahd6QK/A6T2HYJE224Ho7fodV+ru",
                5,
                Term::Text(hello),
            ),
            // `encrypt_conf_value`, told nothing more; then with another cipher and another hash.
            (
                "z3m3O+tBIl5/52vwBoCFKPhueaaFM3P1N9WC3fwiDpKjbYH4UgCMXAwctMYfz2+C",
                1,
                Term::Atom("hello".to_owned()),
            ),
        ] {
            assert_eq!(passphrase(iterations).decrypt(text), Some(want));
            assert_eq!(passphrase(iterations + 1).decrypt(text), None);
        }
        let strong = Passphrase {
            sha512: true,
            long: true,
            ..passphrase(1_000)
        };
        assert_eq!(
            strong.decrypt("++Z5g6DQTsGMOuQhaqtzCdShN+pjzmzQcaliL424w6d7InzObOWMlFkTtG2jKa4S"),
            Some(Term::Binary(b"hello".to_vec()))
        );
    }

    #[test]
    fn what_is_encrypted_here_is_read_here_and_nothing_else_is() {
        for term in [
            Term::Binary("ü".into()),
            Term::Text(b"a b".to_vec()),
            Term::Text(vec![b'x'; 70_000]),
            Term::Atom("infinity".to_owned()),
            Term::Integer(-7),
        ] {
            let text = passphrase(3).encrypt(&term, [7; 32]);
            let found = passphrase(3).decrypt(&text).unwrap();
            assert_eq!(found.plain(), term.plain());
            for (sha512, long) in [(true, false), (false, true)] {
                let other = Passphrase {
                    sha512,
                    long,
                    ..passphrase(3)
                };
                assert_eq!(other.decrypt(&text), None);
                let text = other.encrypt(&term, [8; 32]);
                assert_eq!(other.decrypt(&text).unwrap().plain(), term.plain());
            }
        }
        for text in ["", "AAAA", "no base64!", &STANDARD.encode([0; 48])] {
            assert_eq!(passphrase(1).decrypt(text), None, "{text}");
        }
    }
}
