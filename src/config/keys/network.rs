//! AMQP's listeners and sockets, and what all TLS listeners can be told.

use super::super::value;
use super::{Key, ignored, set};
use crate::broker::tls::{TlsVersion, is_cipher};

const NO_IPC: &str = "the broker chooses this itself";
const NO_RENEGOTIATION: &str = "rustls neither renegotiates nor falls back";

pub(super) static KEYS: &[Key] = &[
    set(
        "listeners.tcp",
        "none",
        "",
        "no plain listeners",
        |d, _, v| {
            value::one_of(v, &["none"])?;
            d.no_listeners = true;
            Ok(None)
        },
    ),
    set(
        "listeners.tcp.$n",
        "port, or ip:port",
        "5672",
        "where AMQP is served; a port alone: on all addresses",
        |d, name, v| {
            value::address(v, d.node_ip)?;
            d.listeners.insert(name.to_owned(), v.to_owned());
            Ok(None)
        },
    ),
    set(
        "listeners.ssl",
        "none",
        "none",
        "no TLS listeners",
        |d, _, v| {
            value::one_of(v, &["none"])?;
            d.tls_listeners.clear();
            Ok(None)
        },
    ),
    set(
        "listeners.ssl.$n",
        "port, or ip:port",
        "",
        "where AMQP is served under TLS (usually 5671); needs `ssl_options.certfile` and `.keyfile`",
        |d, name, v| {
            value::address(v, d.node_ip)?;
            d.tls_listeners.insert(name.to_owned(), v.to_owned());
            Ok(None)
        },
    ),
    set(
        "handshake_timeout",
        "ms",
        "10000",
        "from accept, or the end of the TLS handshake, to connection.open",
        |d, _, v| {
            d.config.handshake_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
            Ok(None)
        },
    )
    .live(),
    set(
        "ssl_handshake_timeout",
        "ms",
        "5000",
        "longest TLS handshake",
        |d, _, v| {
            d.config.tls_handshake_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
            Ok(None)
        },
    ),
    set(
        "proxy_protocol",
        "switch",
        "false",
        "every AMQP connection begins with a PROXY header, version 1 or 2",
        |d, _, v| {
            d.config.proxy_protocol = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "tcp_listen_options.backlog",
        "count",
        "1024",
        "connections the system holds until they are accepted",
        |d, _, v| {
            d.config.socket.backlog = value::number_u16(v)?.clamp(1, i16::MAX.unsigned_abs());
            Ok(None)
        },
    ),
    set(
        "tcp_listen_options.nodelay",
        "switch",
        "true",
        "small segments are sent at once",
        |d, _, v| {
            d.config.socket.nodelay = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "tcp_listen_options.keepalive",
        "switch",
        "false",
        "the system looks for dead peers too",
        |d, _, v| {
            d.config.socket.keepalive = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "tcp_listen_options.sndbuf",
        "bytes",
        "",
        "the system's send buffer",
        |d, _, v| {
            d.config.socket.send_buffer = Some(value::number_u32(v, 1024)?);
            Ok(None)
        },
    ),
    set(
        "tcp_listen_options.recbuf",
        "bytes",
        "",
        "the system's receive buffer",
        |d, _, v| {
            d.config.socket.receive_buffer = Some(value::number_u32(v, 1024)?);
            Ok(None)
        },
    ),
    ignored("tcp_listen_options.*", NO_IPC),
    ignored("num_acceptors.*", NO_IPC),
    ignored("reverse_dns_lookups", "addresses are shown as they are"),
];

/// A file is reported as missing when it is read, with everything else that is wrong with TLS.
macro_rules! tls_keys {
    ($prefix:literal, $at:expr) => {
        &[
            set(
                concat!($prefix, ".cacertfile"),
                "file",
                "",
                "authorities: for client certificates, and for the rest of the server's own chain",
                |d, _, v| {
                    d.tls[$at].options.authorities = Some(v.into());
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".certfile"),
                "file",
                "",
                "the server's certificate, PEM; more of its chain may follow in it",
                |d, _, v| {
                    d.tls[$at].options.certificate = Some(v.into());
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".keyfile"),
                "file",
                "",
                "its private key, PEM",
                |d, _, v| {
                    d.tls[$at].options.key = Some(v.into());
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".password"),
                "text",
                "",
                "what the key is encrypted with (PKCS #8)",
                |d, _, v| {
                    d.tls[$at].options.password = Some(v.to_owned());
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".verify"),
                "verify_none, verify_peer",
                "verify_none",
                "whether clients are asked for a certificate",
                |d, _, v| {
                    let word = value::one_of(v, &["verify_none", "verify_peer"])?;
                    d.tls[$at].options.verify = word == "verify_peer";
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".fail_if_no_peer_cert"),
                "switch",
                "false",
                "whether, once asked, they must have one",
                |d, _, v| {
                    d.tls[$at].options.require = value::switch(v)?;
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".depth"),
                "count",
                "",
                "most certificates that may stand between a client's and its authority",
                |d, _, v| {
                    d.tls[$at].options.depth = Some(value::number_u16(v)?.into());
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".versions.$n"),
                "tlsv1.2, tlsv1.3",
                "both",
                "the versions served",
                |d, name, v| {
                    let version = match v {
                        "tlsv1.3" => Some(TlsVersion::V13),
                        "tlsv1.2" => Some(TlsVersion::V12),
                        "tlsv1.1" | "tlsv1" => None,
                        _ => return Err("tlsv1.2 or tlsv1.3".to_owned()),
                    };
                    d.tls[$at].versions.insert(name.to_owned(), version);
                    Ok(version
                        .is_none()
                        .then_some("versions before 1.2 are not served"))
                },
            )
            .live(),
            set(
                concat!($prefix, ".ciphers.$n"),
                "OpenSSL's or IANA's name",
                "all",
                "the suites served, in order",
                |d, name, v| {
                    let served = is_cipher(v);
                    let cipher = served.then(|| v.to_owned());
                    d.tls[$at].ciphers.insert(name.to_owned(), cipher);
                    Ok((!served).then_some("this suite is not served"))
                },
            )
            .live(),
            set(
                concat!($prefix, ".honor_cipher_order"),
                "switch",
                "false",
                "the server's order of suites counts",
                |d, _, v| {
                    d.tls[$at].options.server_order = value::switch(v)?;
                    Ok(None)
                },
            )
            .live(),
            set(
                concat!($prefix, ".crl_check"),
                "false",
                "false",
                "revocation lists are not read; asking for them is refused",
                |_, _, v| match v {
                    "false" => Ok(None),
                    _ => Err("false: revocation lists are not read".to_owned()),
                },
            ),
            ignored(concat!($prefix, ".honor_ecc_order"), NO_RENEGOTIATION),
            ignored(concat!($prefix, ".client_renegotiation"), NO_RENEGOTIATION),
            ignored(concat!($prefix, ".secure_renegotiate"), NO_RENEGOTIATION),
        ]
    };
}

/// Which TLS a row writes to.
pub(in crate::config) const AMQP: usize = 0;
pub(in crate::config) const MANAGEMENT: usize = 1;
pub(in crate::config) const PROMETHEUS: usize = 2;

pub(super) static AMQP_TLS: &[Key] = tls_keys!("ssl_options", AMQP);
pub(super) static MANAGEMENT_TLS: &[Key] = tls_keys!("management.ssl", MANAGEMENT);
pub(super) static PROMETHEUS_TLS: &[Key] = tls_keys!("prometheus.ssl", PROMETHEUS);
