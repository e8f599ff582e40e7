//! Whether a client's certificate is good: webpki's verdict, and RabbitMQ's `depth`.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::{TlsError, TlsOptions};

/// The verifier that options ask for.
pub(super) fn verifier(
    options: &TlsOptions,
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let trusted: BTreeSet<Vec<u8>> = authorities.iter().map(|one| one.to_vec()).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !options.require {
        builder = builder.allow_unauthenticated();
    }
    let inner = builder.build()?;
    Ok(match options.depth {
        None => inner,
        Some(depth) => Arc::new(Bounded {
            inner,
            depth,
            trusted,
        }),
    })
}

/// Refuses chains that are longer than `depth`: what a client sends between its own certificate and one that is trusted.
#[derive(Debug)]
struct Bounded {
    inner: Arc<dyn ClientCertVerifier>,
    depth: usize,
    trusted: BTreeSet<Vec<u8>>,
}

impl ClientCertVerifier for Bounded {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let between = intermediates.iter();
        let between = between.filter(|one| !self.trusted.contains(one.as_ref()));
        if between.count() > self.depth {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
