use super::*;
use std::path::Path;

use pkcs8::PrivateKeyInfo;
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, OtherNameValue,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn below(name: &str, issuer: &Authority) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
}

/// A certificate and its key.
struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn issued(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Issued { certificate, key }
}

struct Case {
    folder: tempfile::TempDir,
    options: TlsOptions,
}

impl Case {
    /// A server whose certificate is from `ca`.
    fn new(ca: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = issued(ca, |_| {});
        let case = Self {
            options: TlsOptions {
                authorities: Some(folder.path().join("ca.pem")),
                certificate: Some(folder.path().join("server.pem")),
                key: Some(folder.path().join("server.key")),
                ..TlsOptions::default()
            },
            folder,
        };
        case.write("ca.pem", &ca.pem());
        case.write("server.pem", &own.certificate.pem());
        case.write("server.key", &own.key.serialize_pem());
        case
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn error(&self) -> String {
        build(&self.options).unwrap_err().to_string()
    }
}

fn client(trusts: &[&Authority], own: Option<(&[&rcgen::Certificate], &KeyPair)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for one in trusts {
        roots.add(one.der().clone()).unwrap();
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain: Vec<CertificateDer<'static>> =
                chain.iter().map(|one| one.der().clone()).collect();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// Both ends after the handshake, or why there is none.
fn shake(
    server: ServerConfig,
    client: ClientConfig,
) -> Result<(ServerConnection, ClientConnection), rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        if !wire.is_empty() {
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

#[test]
fn a_client_that_trusts_the_authority_gets_through_in_either_version() {
    let ca = authority("ca");
    for (version, served) in [
        (TlsVersion::V12, rustls::ProtocolVersion::TLSv1_2),
        (TlsVersion::V13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let mut case = Case::new(&ca);
        case.options.versions = vec![version];
        let (server, _) = shake(build(&case.options).unwrap(), client(&[&ca], None)).unwrap();
        assert_eq!(server.protocol_version(), Some(served));
    }
    let other = authority("other");
    let case = Case::new(&ca);
    assert!(shake(build(&case.options).unwrap(), client(&[&other], None)).is_err());
}

#[test]
fn ciphers_are_named_as_openssl_or_iana_names_them() {
    for good in [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ] {
        assert!(is_cipher(good), "{good}");
    }
    for bad in ["AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "", "ECDHE"] {
        assert!(!is_cipher(bad), "{bad}");
    }
    let ca = authority("ca");
    let mut case = Case::new(&ca);
    case.options.ciphers = vec!["ECDHE-ECDSA-AES256-GCM-SHA384".to_owned()];
    let (server, _) = shake(build(&case.options).unwrap(), client(&[&ca], None)).unwrap();
    let suite = server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(
        suite,
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
    );
    case.options.versions = vec![TlsVersion::V13];
    assert!(matches!(build(&case.options), Err(TlsError::Ciphers)));
}

#[test]
fn whether_a_certificate_is_asked_for_and_needed_is_as_configured() {
    let (ca, other) = (authority("ca"), authority("other"));
    let good = issued(&ca, |_| {});
    let bad = issued(&other, |_| {});
    let good: Option<(&[&rcgen::Certificate], _)> = Some((&[&good.certificate], &good.key));
    let bad: Option<(&[&rcgen::Certificate], _)> = Some((&[&bad.certificate], &bad.key));
    for (verify, require, shown, through, seen) in [
        (false, false, None, true, false),
        (false, true, None, true, false),
        (false, false, good, true, false),
        (true, false, None, true, false),
        (true, false, good, true, true),
        (true, false, bad, false, false),
        (true, true, None, false, false),
        (true, true, good, true, true),
        (true, true, bad, false, false),
    ] {
        let mut case = Case::new(&ca);
        (case.options.verify, case.options.require) = (verify, require);
        let got = shake(build(&case.options).unwrap(), client(&[&ca], shown));
        assert_eq!(got.is_ok(), through, "verify {verify}, require {require}");
        if let Ok((server, _)) = got {
            assert_eq!(server.peer_certificates().is_some(), seen);
        }
    }
}

#[test]
fn depth_bounds_what_stands_between_a_client_and_its_authority() {
    let ca = authority("ca");
    let middle = below("middle", &ca);
    let leaf = issued(&middle, |_| {});
    for (depth, through) in [(None, true), (Some(1), true), (Some(0), false)] {
        let mut case = Case::new(&ca);
        (case.options.verify, case.options.depth) = (true, depth);
        let chain: &[&rcgen::Certificate] = &[&leaf.certificate, middle.as_ref()];
        let got = shake(
            build(&case.options).unwrap(),
            client(&[&ca], Some((chain, &leaf.key))),
        );
        assert_eq!(got.is_ok(), through, "{depth:?}");
    }
}

#[test]
fn a_chain_is_completed_from_the_authorities_without_the_root() {
    let ca = authority("ca");
    let middle = below("middle", &ca);
    let mut case = Case::new(&ca);
    let own = issued(&middle, |_| {});
    case.write("server.pem", &own.certificate.pem());
    case.write("server.key", &own.key.serialize_pem());
    case.write("ca.pem", &format!("{}{}", ca.pem(), middle.pem()));
    let (_, seen) = shake(build(&case.options).unwrap(), client(&[&ca], None)).unwrap();
    assert_eq!(seen.peer_certificates().unwrap().len(), 2);
    case.options.authorities = None;
    assert!(shake(build(&case.options).unwrap(), client(&[&ca], None)).is_err());
}

#[test]
fn what_is_wrong_with_the_files_is_said_and_no_secret_with_it() {
    let ca = authority("ca");
    let check = |change: &dyn Fn(&mut Case), want: &str| {
        let mut case = Case::new(&ca);
        change(&mut case);
        let error = case.error();
        assert!(error.contains(want), "wanted {want}, got {error}");
        assert!(!error.contains("s3cret"));
    };
    check(&|case| case.options.certificate = None, "`certfile`");
    check(&|case| case.options.key = None, "`keyfile`");
    check(
        &|case| case.options.key = Some(Path::new("/nowhere/x").into()),
        "/nowhere/x",
    );
    check(
        &|case| case.write("server.pem", "no PEM"),
        "server.pem: no certificate",
    );
    check(
        &|case| case.write("server.key", "no PEM"),
        "server.key: no private key",
    );
    check(
        &|case| {
            case.write(
                "server.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            )
        },
        "malformed",
    );
    check(
        &|case| case.write("server.key", &KeyPair::generate().unwrap().serialize_pem()),
        "certificate and key",
    );
    check(
        &|case| {
            case.options.verify = true;
            case.options.authorities = None;
        },
        "`cacertfile`",
    );
    let old =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----\n";
    check(&|case| case.write("server.key", old), "openssl pkcs8");
}

#[test]
fn an_encrypted_key_needs_its_password() {
    let ca = authority("ca");
    let mut case = Case::new(&ca);
    let own = issued(&ca, |_| {});
    let der = own.key.serialize_der();
    let info = PrivateKeyInfo::try_from(der.as_slice()).unwrap();
    let params = pbes2::Parameters::pbkdf2_sha256_aes256cbc(1000, b"saltsalt", &[7; 16]).unwrap();
    let sealed = info.encrypt_with_params(params, "s3cret").unwrap();
    let pem = sealed
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .unwrap();
    case.write("server.pem", &own.certificate.pem());
    case.write(
        "server.key",
        &format!("text before\n{}text behind\n", &*pem),
    );
    assert!(case.error().contains("is encrypted"));
    case.options.password = Some("wrong".to_owned());
    assert!(case.error().contains("cannot be decrypted"));
    case.options.password = Some("s3cret".to_owned());
    shake(build(&case.options).unwrap(), client(&[&ca], None)).unwrap();
    assert!(!format!("{:?}", case.options).contains("s3cret"));
}

#[test]
fn a_reload_serves_the_new_files_and_a_failed_one_the_old() {
    let (ca, next) = (authority("ca"), authority("next"));
    let case = Case::new(&ca);
    let server = TlsServer::new(&case.options).unwrap();
    let through = |trusts: &Authority| {
        let config = ServerConfig::clone(&server.current());
        shake(config, client(&[trusts], None)).is_ok()
    };
    assert!(through(&ca) && !through(&next));
    case.write("server.pem", "half written");
    assert!(server.reload(&case.options).is_err());
    assert!(through(&ca));
    let own = issued(&next, |_| {});
    case.write("server.pem", &own.certificate.pem());
    case.write("server.key", &own.key.serialize_pem());
    server.reload(&case.options).unwrap();
    assert!(through(&next) && !through(&ca));
}

#[test]
fn a_certificate_stands_for_the_name_that_is_configured() {
    use AlternativeName::{Dns, Email, Ip, Other, Uri};
    use NameFrom::{CommonName, DistinguishedName};
    let ca = authority("ca");
    let san = NameFrom::AlternativeName;
    let shown = issued(&ca, |params| {
        let name = &mut params.distinguished_name;
        name.push(DnType::CountryName, "XX");
        name.push(DnType::OrganizationName, "a, b + \"c\"");
        name.push(DnType::OrganizationalUnitName, " #1 ");
        name.push(DnType::CommonName, "client");
        params.subject_alt_names = vec![
            SanType::DnsName("one.example".try_into().unwrap()),
            SanType::DnsName("two.example".try_into().unwrap()),
            SanType::Rfc822Name("me@example".try_into().unwrap()),
            SanType::URI("spiffe://x/y".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
            SanType::OtherName((
                vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
                OtherNameValue::Utf8String("other".into()),
            )),
        ];
    });
    for (from, want) in [
        (
            DistinguishedName,
            Some("CN=client,OU=\\ #1\\ ,O=a\\, b \\+ \\\"c\\\",C=XX"),
        ),
        (CommonName, Some("client")),
        (san(Dns, 0), Some("one.example")),
        (san(Dns, 1), Some("two.example")),
        (san(Dns, 2), None),
        (san(Email, 0), Some("me@example")),
        (san(Uri, 0), Some("spiffe://x/y")),
        (san(Ip, 0), Some("192.0.2.7")),
        (san(Other, 0), Some("other")),
    ] {
        let peer = PeerCertificate::new(shown.certificate.der(), from).unwrap();
        assert_eq!(peer.user.as_deref(), want, "{from:?}");
        assert!(peer.issuer.contains("CN=ca"));
        assert!(peer.validity.contains("Z - "));
    }
    let nameless = issued(&ca, |params| params.subject_alt_names.clear());
    for from in [DistinguishedName, CommonName, san(Dns, 0)] {
        let peer = PeerCertificate::new(nameless.certificate.der(), from).unwrap();
        assert_eq!(peer.user, None, "{from:?}");
    }
}
