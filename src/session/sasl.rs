//! Reads the responses of the SASL mechanisms.

use bytes::Bytes;

use super::Credentials;
use crate::amqp::AMQPValue;
use crate::amqp::value::table_from_body;

/// The credentials in a response; `None` if it is malformed or the mechanism is none of ours (§3.3).
pub(super) fn credentials(mechanism: &str, response: &[u8]) -> Option<Credentials> {
    match mechanism {
        "PLAIN" => plain(response),
        "AMQPLAIN" => amqplain(response),
        "EXTERNAL" => Some(Credentials::Certificate),
        "ANONYMOUS" => Some(Credentials::Nothing),
        _ => None,
    }
}

/// NUL, user, NUL, password. An authorization identity before the first NUL is malformed, and so is a third NUL.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 0);
    let (before, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !before.is_empty() || parts.next().is_some() {
        return None;
    }
    made(user, password)
}

/// The entries of a field table without its length: LOGIN and PASSWORD, each a long string or bytes. Others may be
/// there too.
fn amqplain(response: &[u8]) -> Option<Credentials> {
    let table = table_from_body(response).ok()?;
    let entry = |name: &str| match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    };
    made(entry("LOGIN")?, entry("PASSWORD")?)
}

fn made(user: &[u8], password: &[u8]) -> Option<Credentials> {
    Some(Credentials::Password {
        user: std::str::from_utf8(user).ok()?.to_owned(),
        password: Bytes::copy_from_slice(password),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn responses_read_as_credentials_or_not_at_all() {
        let good = |user: &str, password: &'static [u8]| {
            Some(Credentials::Password {
                user: user.to_owned(),
                password: Bytes::from_static(password),
            })
        };
        let more = b"\x05LOGINx\0\0\0\x01a\x06LOCALEt\x01\x08PASSWORDS\0\0\0\0";
        let login = b"\x05LOGINS\0\0\0\x01a\x08PASSWORDS\0\0\0\x02bc";
        for (mechanism, response, expected) in [
            ("PLAIN", &b"\0guest\0secret"[..], good("guest", b"secret")),
            ("PLAIN", b"\0u\0", good("u", b"")),
            ("PLAIN", b"other\0u\0p", None),
            ("PLAIN", b"\0u\0p\0", None),
            ("PLAIN", b"\0u", None),
            ("PLAIN", b"", None),
            ("PLAIN", b"\0\xff\0p", None),
            ("AMQPLAIN", login, good("a", b"bc")),
            ("AMQPLAIN", more, good("a", b"")),
            ("AMQPLAIN", &login[..login.len() - 1], None),
            ("AMQPLAIN", b"\x05LOGINS\0\0\0\x01a", None),
            ("AMQPLAIN", b"\x05LOGINI\0\0\0\x01", None),
            ("AMQPLAIN", b"", None),
            ("EXTERNAL", b"anything", Some(Credentials::Certificate)),
            ("ANONYMOUS", b"", Some(Credentials::Nothing)),
            ("SCRAM-SHA-256", b"", None),
        ] {
            assert_eq!(credentials(mechanism, response), expected, "{response:?}");
        }
    }
}
