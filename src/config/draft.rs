//! A configuration while its sources are read, and how its parts are put together at the end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::keys::defaults::Rules;
use super::keys::logs;
use super::keys::network::{AMQP, MANAGEMENT, PROMETHEUS};
use super::keys::users::name_from;
use super::secret::Passphrase;
use super::value::{self, Expected};
use super::{
    ANY, Config, MANAGEMENT_PORT, MANAGEMENT_TLS_PORT, PROMETHEUS_PORT, PROMETHEUS_TLS_PORT,
    cluster,
};
use crate::broker::tls::{AlternativeName, TlsOptions, TlsVersion};
use crate::http::PasswordRule;

/// See the module's head.
#[derive(Debug)]
pub struct Draft {
    /// What is known so far.
    pub config: Config,
    pub(super) listeners: BTreeMap<String, String>,
    pub(super) no_listeners: bool,
    pub(super) tls_listeners: BTreeMap<String, String>,
    pub(super) mechanisms: BTreeMap<(u64, String), Option<String>>,
    /// By [`AMQP`], [`MANAGEMENT`], [`PROMETHEUS`].
    pub(super) tls: [Tls; 3],
    /// The same, AMQP's unused.
    pub(super) web: [Web; 3],
    pub(super) anonymous: (Option<String>, Option<String>),
    pub(super) name_from: (String, AlternativeName, usize),
    pub(super) tags_named: bool,
    pub(super) rules: Rules,
    pub(super) log: logs::Written,
    /// Which rule new passwords have; least length; pattern.
    pub(super) validator: (String, u64, String),
    /// What encrypted values are decrypted with.
    pub(super) passphrase: Passphrase,
    pub(super) cluster: cluster::Written,
    /// Where a listener that names only a port listens.
    pub node_ip: IpAddr,
    /// Port used when no listener is named.
    pub node_port: u16,
    /// Features that `enabled_plugins` leaves out: management, Prometheus.
    pub left_out: [bool; 2],
}

/// One listener's TLS as written.
#[derive(Debug, Default)]
pub(super) struct Tls {
    pub options: TlsOptions,
    pub versions: BTreeMap<String, Option<TlsVersion>>,
    pub ciphers: BTreeMap<String, Option<String>>,
}

/// Port and address of an HTTP listener, plain and under TLS.
#[derive(Debug, Default)]
pub(super) struct Web {
    pub plain: (Option<u16>, Option<IpAddr>),
    pub tls: (Option<u16>, Option<IpAddr>),
}

/// A key and what it should have been.
pub type Wrong = (&'static str, Expected);

impl Tls {
    fn finish(mut self, key: &'static str) -> Result<TlsOptions, Wrong> {
        let named = (!self.versions.is_empty(), !self.ciphers.is_empty());
        self.options.versions = self.versions.into_values().flatten().collect();
        self.options.ciphers = self.ciphers.into_values().flatten().collect();
        if named.0 && self.options.versions.is_empty() {
            return Err((
                key,
                "at least one of the versions tlsv1.2 and tlsv1.3".to_owned(),
            ));
        }
        if named.1 && self.options.ciphers.is_empty() {
            return Err((key, "at least one cipher suite that is served".to_owned()));
        }
        Ok(self.options)
    }
}

impl Web {
    /// Where to listen without TLS, and with it.
    fn finish(self, tls: &TlsOptions, ports: [u16; 2]) -> [Option<SocketAddr>; 2] {
        let secured = *tls != TlsOptions::default() || self.tls != (None, None);
        let plain = self.plain != (None, None) || !secured;
        let at = |(port, ip): (Option<u16>, Option<IpAddr>), usual| {
            SocketAddr::new(ip.unwrap_or(ANY), port.unwrap_or(usual))
        };
        [
            plain.then(|| at(self.plain, ports[0])),
            secured.then(|| at(self.tls, ports[1])),
        ]
    }
}

impl Draft {
    /// The defaults, for a node of this name.
    #[must_use]
    pub fn new(node_name: String) -> Self {
        let guest = || Some("guest".to_owned());
        Self {
            config: Config {
                node_name,
                ..Config::default()
            },
            listeners: BTreeMap::new(),
            no_listeners: false,
            tls_listeners: BTreeMap::new(),
            mechanisms: BTreeMap::new(),
            tls: Default::default(),
            web: Default::default(),
            anonymous: (guest(), guest()),
            name_from: (String::new(), AlternativeName::default(), 0),
            tags_named: false,
            rules: Rules::default(),
            log: logs::Written::default(),
            validator: (String::new(), 1, String::new()),
            passphrase: Passphrase::new(""),
            cluster: cluster::Written::default(),
            node_ip: ANY,
            node_port: super::AMQP_PORT,
            left_out: [false; 2],
        }
    }

    /// The configuration; what belongs together put together.
    ///
    /// # Errors
    /// What cannot be said of one key alone: no mechanism is left to offer, peers without a secret, TLS that is not
    /// complete.
    pub fn finish(mut self) -> Result<Config, Wrong> {
        let (ip, port) = (self.node_ip, self.node_port);
        let cluster = self.cluster.finish(&self.config.node_name, ip, port);
        self.config.cluster = cluster.map_err(|expected| ("leveret.cluster.secret", expected))?;
        let addresses = |named: &BTreeMap<String, String>| {
            let named = named.values();
            let mut all: Vec<_> = named.filter_map(|v| value::address(v, ip).ok()).collect();
            all.dedup();
            all
        };
        self.config.listeners = match self.listeners.is_empty() && !self.no_listeners {
            true => vec![SocketAddr::new(ip, port)],
            false => addresses(&self.listeners),
        };
        self.config.tls_listeners = addresses(&self.tls_listeners);
        let [amqp, management, prometheus] = self.tls;
        self.config.tls = amqp.finish("ssl_options")?;
        self.config.management_tls = management.finish("management.ssl")?;
        self.config.prometheus_tls = prometheus.finish("prometheus.ssl")?;
        let [_, web_management, web_prometheus] = self.web;
        let ports = [MANAGEMENT_PORT, MANAGEMENT_TLS_PORT];
        self.config.management = web_management.finish(&self.config.management_tls, ports);
        let ports = [PROMETHEUS_PORT, PROMETHEUS_TLS_PORT];
        self.config.prometheus = web_prometheus.finish(&self.config.prometheus_tls, ports);
        let [no_management, no_prometheus] = self.left_out;
        if no_management {
            self.config.management = [None, None];
        }
        if no_prometheus {
            self.config.prometheus = [None, None];
        }
        let (from, kind, index) = self.name_from;
        self.config.name_from = name_from(&from, kind, index);
        self.config.vhost_defaults = self.rules.finish();
        self.config.passwords.rule = match (&*self.validator.0, self.validator.1) {
            ("min_password_length", min) => {
                PasswordRule::Longer(usize::try_from(min).unwrap_or(usize::MAX))
            }
            ("password_regexp", _) if self.validator.2.is_empty() => {
                let key = "credential_validator.regexp";
                return Err((
                    key,
                    "a regular expression, which validation_backend names".to_owned(),
                ));
            }
            ("password_regexp", _) => PasswordRule::Like(self.validator.2),
            _ => PasswordRule::Any,
        };
        self.config.log_file = self.log.finish();
        // Lines go somewhere.
        self.config.log_console |= self.config.log_file.is_none();
        self.config.anonymous = self.anonymous.0.zip(self.anonymous.1);
        if !self.mechanisms.is_empty() {
            self.config.auth_mechanisms = self.mechanisms.into_values().flatten().collect();
        }
        let mechanisms = &mut self.config.auth_mechanisms;
        if self.config.anonymous.is_none() {
            mechanisms.retain(|name| name != "ANONYMOUS");
        }
        if mechanisms.is_empty() {
            let expected = "at least one mechanism that is offered".to_owned();
            return Err(("auth_mechanisms", expected));
        }
        complete(&self.config)?;
        Ok(self.config)
    }
}

/// Whether every listener under TLS has what it needs.
fn complete(config: &Config) -> Result<(), Wrong> {
    let served = [
        ("ssl_options", !config.tls_listeners.is_empty(), &config.tls),
        (
            "management.ssl",
            config.management[1].is_some(),
            &config.management_tls,
        ),
        (
            "prometheus.ssl",
            config.prometheus[1].is_some(),
            &config.prometheus_tls,
        ),
    ];
    for (key, served, options) in served {
        let missing = match (served, options) {
            (false, _) => continue,
            (_, options) if options.certificate.is_none() => "certfile",
            (_, options) if options.key.is_none() => "keyfile",
            (_, options) if options.verify && options.authorities.is_none() => "cacertfile",
            _ => continue,
        };
        return Err((key, format!("`{key}.{missing}` for what it is to serve")));
    }
    Ok(())
}

const _: () = assert!(AMQP == 0 && MANAGEMENT == 1 && PROMETHEUS == 2);
