//! Certificates made for one test run: an authority, a server's, and clients'.
//!
//! Files are PEM in one temporary folder: `ca.pem`, `server.pem` and `.key` (for localhost and 127.0.0.1), and what
//! [`Certificates::client`] and [`Certificates::stranger`] add.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};

/// See the module's head.
pub struct Certificates {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = subject(name);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "compat-tests");
    subject.push(DnType::CommonName, name);
    subject
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// An authority and a server's certificate.
    #[must_use]
    pub fn new() -> Self {
        let made = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            authority: authority("authority"),
        };
        made.write("ca.pem", &made.authority.pem());
        made.server(&made.authority);
        made
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file of it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client's certificate, `CN=name,O=compat-tests`, in `name.pem` and `name.key`.
    pub fn client(&self, name: &str) {
        self.issue(name, subject(name), Vec::new(), &self.authority);
    }

    /// A client's certificate by an authority nobody knows.
    pub fn stranger(&self, name: &str) {
        self.issue(
            name,
            subject(name),
            Vec::new(),
            &authority("another authority"),
        );
    }

    /// Another authority and another certificate of the server in the same files.
    pub fn replace(&mut self) {
        self.authority = authority("the next authority");
        self.write("ca.pem", &self.authority.pem());
        self.server(&self.authority);
    }

    /// What a broker's configuration says of them, with this prefix.
    #[must_use]
    pub fn settings(&self, prefix: &str) -> Vec<(String, String)> {
        let files = [
            ("cacertfile", "ca.pem"),
            ("certfile", "server.pem"),
            ("keyfile", "server.key"),
        ];
        let line = |(key, file)| {
            (
                format!("{prefix}.{key}"),
                self.path(file).display().to_string(),
            )
        };
        files.into_iter().map(line).collect()
    }

    fn server(&self, issuer: &CertifiedIssuer<'_, KeyPair>) {
        let names = vec![
            SanType::DnsName("localhost".try_into().expect("a name")),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        self.issue("server", subject("localhost"), names, issuer);
    }

    fn issue(
        &self,
        file: &str,
        name: DistinguishedName,
        names: Vec<SanType>,
        issuer: &CertifiedIssuer<'_, KeyPair>,
    ) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name = name;
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    /// Aside, then in place: whoever reads meanwhile finds the old or the new file.
    fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        std::fs::write(&aside, text).expect("a file is written");
        std::fs::rename(aside, self.path(name)).expect("a file is renamed");
    }
}
