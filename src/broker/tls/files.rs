//! Certificates and keys out of PEM files.

use std::path::Path;

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::parse_x509_certificate;

use super::TlsError;

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// Longest chain that is put together; more is a loop.
const CHAIN_MAX: usize = 10;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read {
        path: path.to_owned(),
        error,
    })
}

fn content(path: &Path, why: &'static str) -> TlsError {
    TlsError::Content {
        path: path.to_owned(),
        why,
    }
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| content(path, "malformed PEM"))?;
    for one in &found {
        parse_x509_certificate(one).map_err(|_| content(path, "a malformed certificate"))?;
    }
    match found.is_empty() {
        true => Err(content(path, "no certificate (PEM is expected)")),
        false => Ok(found),
    }
}

/// The first key of a file.
pub(super) fn key(path: &Path, password: Option<&str>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    if let Some(at) = text.find(ENCRYPTED_BEGIN) {
        let why = "the key is encrypted; its password is expected in `password`";
        let password = password.ok_or_else(|| content(path, why))?;
        return decrypted(&text[at..], password).ok_or_else(|| {
            content(
                path,
                "the key cannot be decrypted: another password, or a method that is not known",
            )
        });
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        let why = "the key is encrypted in an old way; `openssl pkcs8 -topk8` converts it";
        return Err(content(path, why));
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| content(path, "no private key (PEM is expected)"))
}

fn decrypted(text: &str, password: &str) -> Option<PrivateKeyDer<'static>> {
    let end = text.find(ENCRYPTED_END)? + ENCRYPTED_END.len();
    let (_, document) = SecretDocument::from_pem(&text[..end]).ok()?;
    let info = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).ok()?;
    let key = info.decrypt(password).ok()?;
    Some(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

/// The chain with what of it is only among the authorities, as RabbitMQ completes it; roots are left out, whoever trusts
/// them has them.
pub(super) fn completed(
    mut chain: Vec<CertificateDer<'static>>,
    authorities: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    while chain.len() < CHAIN_MAX {
        let Some(next) = chain.last().and_then(|last| issuer(last, authorities)) else {
            break;
        };
        chain.push(next);
    }
    chain
}

fn issuer(
    of: &CertificateDer<'_>,
    among: &[CertificateDer<'static>],
) -> Option<CertificateDer<'static>> {
    let (_, of) = parse_x509_certificate(of).ok()?;
    let found = among.iter().find(|candidate| {
        parse_x509_certificate(candidate).is_ok_and(|(_, candidate)| {
            let root = candidate.subject() == candidate.issuer();
            !root && candidate.subject() == of.issuer()
        })
    });
    found.cloned()
}
