//! TLS of connections the broker makes itself, as an AMQP URI's query says it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};

use super::{TlsError, files};

/// What an `amqps` URI may say.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsClientOptions {
    /// Authorities for the server's certificate.
    pub authorities: Option<PathBuf>,
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// What the key is encrypted with; never logged.
    pub password: Option<String>,
    /// The server's certificate must be one of the authorities', for the name asked for. Without it anybody's will do, as
    /// in RabbitMQ's client.
    pub verify: bool,
    /// The name asked for, if not the host's.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for TlsClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClientOptions")
            .field("verify", &self.verify)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// Takes any certificate; that the server has its key is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads the files and says how to connect.
///
/// # Errors
/// [`TlsError`].
pub fn build(options: &TlsClientOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match (options.verify, &options.authorities) {
        (false, _) => Arc::new(Anybody(Arc::clone(&provider))),
        (true, None) => return Err(TlsError::Missing("cacertfile")),
        (true, Some(path)) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(files::certificates(path)?);
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let chain = files::certificates(certificate)?;
            let key = files::key(key, options.password.as_deref())?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (None, Some(_)) => Err(TlsError::Missing("certfile")),
        (Some(_), None) => Err(TlsError::Missing("keyfile")),
    }
}
