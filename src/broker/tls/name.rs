//! Whom a client's certificate stands for, in RabbitMQ's words.
//!
//! A distinguished name is written as RFC 4514 has it: the last part first, `O=acme,CN=client`. Only certificates that
//! were verified come here.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// What of a certificate names the user (`ssl_cert_login_from`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameFrom {
    /// The subject, in full.
    #[default]
    DistinguishedName,
    /// The subject's common names, joined by commas.
    CommonName,
    /// An alternative name: its kind, and which of them, from 0.
    AlternativeName(AlternativeName, usize),
}

/// A kind of alternative name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlternativeName {
    /// A host name.
    #[default]
    Dns,
    /// An address.
    Ip,
    /// An e-mail address.
    Email,
    /// A URI.
    Uri,
    /// A name of another form, its text.
    Other,
}

/// What is shown of a client's certificate, and what it may be taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its subject.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Its serial number, decimal.
    pub serial: String,
    /// From when to when, `2026-01-01T00:00:00Z - 2027-01-01T00:00:00Z`.
    pub validity: String,
    /// The user it stands for; `None` if it has no such name.
    pub user: Option<String>,
}

impl PeerCertificate {
    /// Of a certificate in DER; `None` if it cannot be read.
    #[must_use]
    pub fn new(certificate: &CertificateDer<'_>, from: NameFrom) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: written(certificate.subject()),
            issuer: written(certificate.issuer()),
            serial: certificate.serial.to_string(),
            validity: format!(
                "{} - {}",
                stamp(validity.not_before.timestamp()),
                stamp(validity.not_after.timestamp())
            ),
            user: user(&certificate, from).filter(|name| !name.is_empty()),
        })
    }
}

/// What is told of a listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its subject.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Its serial number, decimal.
    pub serial: String,
    /// From when to when, as in [`PeerCertificate`].
    pub validity: String,
    /// Its end: seconds since 1970.
    pub ends_s: i64,
}

impl CertificateFacts {
    /// Of a certificate in DER; `None` if it cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let shown = PeerCertificate::new(certificate, NameFrom::default())?;
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        Some(Self {
            subject: shown.subject,
            issuer: shown.issuer,
            serial: shown.serial,
            validity: shown.validity,
            ends_s: certificate.validity().not_after.timestamp(),
        })
    }
}

fn stamp(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    let (year, month, day) = crate::base::civil(seconds / 86_400);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

fn user(certificate: &X509Certificate<'_>, from: NameFrom) -> Option<String> {
    match from {
        NameFrom::DistinguishedName => Some(written(certificate.subject())),
        NameFrom::CommonName => {
            let names = certificate.subject().iter_common_name();
            let names: Vec<String> = names.filter_map(text).collect();
            Some(names.join(","))
        }
        NameFrom::AlternativeName(kind, index) => {
            let extension = certificate.subject_alternative_name().ok()??;
            let names = extension.value.general_names.iter();
            names.filter_map(|name| alternative(name, kind)).nth(index)
        }
    }
}

fn alternative(name: &GeneralName<'_>, kind: AlternativeName) -> Option<String> {
    match (kind, name) {
        (AlternativeName::Dns, GeneralName::DNSName(text))
        | (AlternativeName::Email, GeneralName::RFC822Name(text))
        | (AlternativeName::Uri, GeneralName::URI(text)) => Some((*text).to_owned()),
        (AlternativeName::Ip, GeneralName::IPAddress(bytes)) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                return Some(Ipv4Addr::from(v4).to_string());
            }
            let v6 = <[u8; 16]>::try_from(*bytes).ok()?;
            Some(Ipv6Addr::from(v6).to_string())
        }
        (AlternativeName::Other, GeneralName::OtherName(_, value)) => {
            // [0] EXPLICIT around a string: tag and length (both short) twice, then the text.
            let text = value.get(4..).unwrap_or_default();
            std::str::from_utf8(text).ok().map(str::to_owned)
        }
        _ => None,
    }
}

fn text(part: &AttributeTypeAndValue<'_>) -> Option<String> {
    if let Ok(text) = part.as_str() {
        return Some(text.to_owned());
    }
    std::str::from_utf8(part.as_slice()).ok().map(str::to_owned)
}

/// RFC 4514, with RabbitMQ's names of attributes.
fn written(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let pairs = part.iter().map(|pair| {
                let kind = pair.attr_type().to_id_string();
                format!(
                    "{}={}",
                    attribute(&kind),
                    escaped(&text(pair).unwrap_or_default())
                )
            });
            pairs.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(kind: &str) -> &str {
    match kind {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "SERIALNUMBER",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "TITLE",
        "2.5.4.42" => "GIVENNAME",
        "2.5.4.43" => "INITIALS",
        "2.5.4.44" => "GENERATIONQUALIFIER",
        "2.5.4.65" => "PSEUDONYM",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "EMAILADDRESS",
        other => other,
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => {
                out.push('\\');
                out.push(c);
            }
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            '#' if at == 0 => out.push_str("\\#"),
            c if u32::from(c) < 32 || u32::from(c) == 127 => {
                out.push_str(&format!("\\{:02X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}
