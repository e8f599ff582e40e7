//! TLS for whoever listens: from files named in the configuration to what rustls serves, and again when the files change.
//!
//! Need: keys, names and meanings of RabbitMQ's `ssl_options.*`. Shape: [`TlsOptions`] says what is wanted, [`build`]
//! reads and checks it as a whole, [`TlsServer`] holds the current result and swaps it at a reload; connections that are
//! open keep what they began with. Invariants: a reload that fails changes nothing; a key that does not belong to its
//! certificate is refused; no secret is in an error. Limits: TLS 1.2 and 1.3 with the suites of ring; keys in PEM, also
//! encrypted as PKCS #8. Not here: sockets, who a certificate stands for ([`name`]).

mod client;
mod files;
mod name;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::ServerConfig;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

pub use client::{TlsClientOptions, build as build_client};
pub use name::{AlternativeName, CertificateFacts, NameFrom, PeerCertificate};

/// What a listener's TLS is made of.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities for clients' certificates, and for the rest of our own chain.
    pub authorities: Option<PathBuf>,
    /// Our certificate, and what of its chain is in the same file.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// What the key is encrypted with; never logged.
    pub password: Option<String>,
    /// Clients are asked for a certificate.
    pub verify: bool,
    /// And must have one.
    pub require: bool,
    /// Most certificates between a client's and its authority.
    pub depth: Option<usize>,
    /// Versions served; empty: both.
    pub versions: Vec<TlsVersion>,
    /// Cipher suites served, in order, by RabbitMQ's (OpenSSL's) or IANA's name; empty: all.
    pub ciphers: Vec<String>,
    /// Our order of suites counts, not the client's.
    pub server_order: bool,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions")
            .field("certificate", &self.certificate)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key of the configuration is missing.
    #[error("TLS needs `{0}`")]
    Missing(&'static str),
    /// A file cannot be read.
    #[error("{path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// No suite is left for these versions.
    #[error("none of the ciphers named is served for the versions named")]
    Ciphers,
    /// The authorities cannot verify anybody.
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Certificate and key do not fit, or one is of a kind that is not served.
    #[error("certificate and key: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Whether a suite of this name is served.
#[must_use]
pub fn is_cipher(name: &str) -> bool {
    suite(name).is_some()
}

/// By IANA's name, or by OpenSSL's for TLS 1.2: `ECDHE-RSA-AES128-GCM-SHA256`.
fn suite(name: &str) -> Option<SupportedCipherSuite> {
    let named = |suite: &SupportedCipherSuite| {
        let iana = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        let openssl = iana
            .trim_start_matches("TLS_")
            .replace("_WITH_", "_")
            .replace("AES_", "AES")
            .replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305")
            .replace('_', "-");
        name.eq_ignore_ascii_case(&iana) || name.eq_ignore_ascii_case(&openssl)
    };
    ring::ALL_CIPHER_SUITES
        .iter()
        .find(|suite| named(suite))
        .copied()
}

fn provider(options: &TlsOptions) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    if !options.ciphers.is_empty() {
        provider.cipher_suites = options
            .ciphers
            .iter()
            .filter_map(|name| suite(name))
            .collect();
    }
    match provider.cipher_suites.is_empty() {
        true => Err(TlsError::Ciphers),
        false => Ok(provider),
    }
}

fn versions(options: &TlsOptions) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::V13, &rustls::version::TLS13),
        (TlsVersion::V12, &rustls::version::TLS12),
    ];
    let wanted = |version| options.versions.is_empty() || options.versions.contains(version);
    let chosen = all.iter().filter(|(version, _)| wanted(version));
    chosen.map(|(_, served)| *served).collect()
}

/// Certificates of a listener, each with the moment it ends: seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The file of the listener's own, and what is in it: subject, issuer, end.
    pub own: (PathBuf, Vec<CertificateFacts>),
    /// The same of its authorities; none if none are named.
    pub authorities: Option<(PathBuf, Vec<CertificateFacts>)>,
}

impl Certificates {
    fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let facts = |path: &PathBuf| -> Result<_, TlsError> {
            let found = files::certificates(path)?;
            let found = found.iter().filter_map(CertificateFacts::of);
            Ok((path.clone(), found.collect()))
        };
        let own = options.certificate.as_ref();
        Ok(Self {
            own: own.map(facts).transpose()?.unwrap_or_default(),
            authorities: options.authorities.as_ref().map(facts).transpose()?,
        })
    }
}

/// Reads all files and checks that they fit together.
///
/// # Errors
/// [`TlsError`].
pub fn build(options: &TlsOptions) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider(options)?);
    let authorities = match &options.authorities {
        Some(path) => files::certificates(path)?,
        None => Vec::new(),
    };
    let certificate = options.certificate.as_ref();
    let certificate = certificate.ok_or(TlsError::Missing("certfile"))?;
    let key = options.key.as_ref().ok_or(TlsError::Missing("keyfile"))?;
    let chain = files::completed(files::certificates(certificate)?, &authorities);
    let key = files::key(key, options.password.as_deref())?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_protocol_versions(&versions(options))
        .map_err(|_| TlsError::Ciphers)?;
    let builder = match options.verify {
        false => builder.with_no_client_auth(),
        true if options.authorities.is_none() => return Err(TlsError::Missing("cacertfile")),
        true => {
            builder.with_client_cert_verifier(verify::verifier(options, authorities, provider)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.ignore_client_order = options.server_order;
    Ok(config)
}

/// The TLS of listeners, as the files said when they were last read with success.
#[derive(Debug)]
pub struct TlsServer {
    served: ArcSwap<ServerConfig>,
    certificates: ArcSwap<Certificates>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        Ok(Self {
            served: ArcSwap::from_pointee(build(options)?),
            certificates: ArcSwap::from_pointee(Certificates::read(options)?),
        })
    }

    /// Reads the files again, for connections from here on.
    ///
    /// # Errors
    /// [`TlsError`]; then what was served goes on.
    pub fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
        let (served, certificates) = (build(options)?, Certificates::read(options)?);
        self.served.store(Arc::new(served));
        self.certificates.store(Arc::new(certificates));
        Ok(())
    }

    /// What a connection begins with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.served.load_full()
    }

    /// The certificates of what is served.
    #[must_use]
    pub fn certificates(&self) -> Arc<Certificates> {
        self.certificates.load_full()
    }
}

#[cfg(test)]
mod test;
