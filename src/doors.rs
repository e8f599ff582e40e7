//! What listens: sockets and certificates are taken before anything else starts, and put to work once the node can serve.
//!
//! Invariant: a port in use or a certificate that cannot be served ends the start before any state is touched.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::broker::listener::{self, Entry, SocketOptions};
use crate::broker::tls::{TlsError, TlsOptions, TlsServer};
use crate::broker::{Node, listener::accept};
use crate::http::api::{self, Api, Listener};
use crate::http::{MetricsState, WebListener, serve};
use crate::node::{NodeError, Settings};
use crate::rt::Supervisor;

/// Whose TLS is what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsFiles {
    /// AMQP's.
    pub amqp: TlsOptions,
    /// The management API's.
    pub management: TlsOptions,
    /// The metrics'.
    pub metrics: TlsOptions,
}

/// The TLS that is served, which can be read again.
#[derive(Debug)]
pub struct TlsServers {
    amqp: Option<Arc<TlsServer>>,
    management: Option<Arc<TlsServer>>,
    metrics: Option<Arc<TlsServer>>,
}

fn served(
    what: &'static str,
    wanted: bool,
    options: &TlsOptions,
) -> Result<Option<Arc<TlsServer>>, NodeError> {
    if !wanted {
        return Ok(None);
    }
    let server = TlsServer::new(options).map_err(|error| NodeError::Tls { what, error })?;
    Ok(Some(Arc::new(server)))
}

impl TlsServers {
    /// Reads every file again; what cannot be served stays as it was. Answers what went wrong.
    #[must_use]
    pub fn reload(&self, files: &TlsFiles) -> Vec<(&'static str, TlsError)> {
        let all = [
            ("ssl_options", &self.amqp, &files.amqp),
            ("management.ssl", &self.management, &files.management),
            ("prometheus.ssl", &self.metrics, &files.metrics),
        ];
        let mut wrong = Vec::new();
        for (what, server, options) in all {
            if let Some(server) = server
                && let Err(error) = server.reload(options)
            {
                wrong.push((what, error));
            }
        }
        wrong
    }
}

type Bound = (SocketAddr, TcpListener);

/// See the module's head.
pub struct Doors {
    plain: Vec<Bound>,
    secured: Vec<Bound>,
    management: [Option<Bound>; 2],
    metrics: [Option<Bound>; 2],
    /// The TLS of all of them.
    pub tls: Arc<TlsServers>,
}

/// Binds an address.
///
/// # Errors
/// [`NodeError::Listen`].
pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<TcpListener, NodeError> {
    listener::bind(address, options).map_err(|error| NodeError::Listen { address, error })
}

fn bound(at: &[SocketAddr], options: &SocketOptions) -> Result<Vec<Bound>, NodeError> {
    let bind = |address: &SocketAddr| Ok((*address, bind(*address, options)?));
    at.iter().map(bind).collect()
}

fn web([plain, secured]: [Option<SocketAddr>; 2]) -> Result<[Option<Bound>; 2], NodeError> {
    let one = |at: Option<SocketAddr>| -> Result<Option<Bound>, NodeError> {
        let Some(at) = at else { return Ok(None) };
        Ok(Some((at, bind(at, &SocketOptions::default())?)))
    };
    Ok([one(plain)?, one(secured)?])
}

impl Doors {
    /// Reads certificates and binds every address.
    ///
    /// # Errors
    /// [`NodeError::Tls`], [`NodeError::Listen`].
    pub fn open(settings: &Settings) -> Result<Self, NodeError> {
        let files = &settings.tls;
        let amqp = !settings.tls_listeners.is_empty();
        let tls = TlsServers {
            amqp: served("ssl_options", amqp, &files.amqp)?,
            management: served(
                "management.ssl",
                settings.management[1].is_some(),
                &files.management,
            )?,
            metrics: served(
                "prometheus.ssl",
                settings.metrics[1].is_some(),
                &files.metrics,
            )?,
        };
        Ok(Self {
            plain: bound(&settings.listeners, &settings.entry.socket)?,
            secured: bound(&settings.tls_listeners, &settings.entry.socket)?,
            management: web(settings.management)?,
            metrics: web(settings.metrics)?,
            tls: Arc::new(tls),
        })
    }

    /// Lets clients in.
    pub fn serve(
        self,
        node: &Arc<Node>,
        entry: &Entry,
        api: Arc<Api>,
        metrics: Arc<MetricsState>,
        front: &Supervisor,
    ) {
        let limit = entry.tls_timeout;
        front.spawn("statistics", api::sample(Arc::clone(&api)));
        let tls = [None, self.tls.management.clone()];
        for ((address, listener), tls) in each(self.management, tls) {
            tracing::info!("started the management listener on {address}");
            let listener = listening(listener, tls, limit);
            front.spawn("management", api::serve(Arc::clone(&api), listener));
        }
        let tls = [None, self.tls.metrics.clone()];
        for ((address, listener), tls) in each(self.metrics, tls) {
            tracing::info!("started the metrics listener on {address}");
            let listener = listening(listener, tls, limit);
            front.spawn("metrics", serve(Arc::clone(&metrics), listener));
        }
        for (address, socket) in self.plain {
            tracing::info!("started TCP listener on {address}");
            let entry = Entry {
                tls: None,
                ..entry.clone()
            };
            front.spawn("listener", accept(Arc::clone(node), socket, entry));
        }
        for (address, socket) in self.secured {
            tracing::info!("started TLS (SSL) listener on {address}");
            let tls = self.tls.amqp.clone();
            let entry = Entry {
                tls,
                ..entry.clone()
            };
            front.spawn("listener", accept(Arc::clone(node), socket, entry));
        }
    }
}

type Tls = Option<Arc<TlsServer>>;

fn each(sockets: [Option<Bound>; 2], tls: [Tls; 2]) -> impl Iterator<Item = (Bound, Tls)> {
    let pairs = sockets.into_iter().zip(tls);
    pairs.filter_map(|(socket, tls)| Some((socket?, tls)))
}

fn listening(socket: TcpListener, tls: Tls, limit: std::time::Duration) -> WebListener {
    match tls {
        None => WebListener::plain(socket),
        Some(tls) => WebListener::tls(socket, tls, limit),
    }
}

/// Where the node listens, as the management API shows it.
#[must_use]
pub fn places(settings: &Settings, tls: &TlsServers) -> Vec<Listener> {
    let place = |protocol, address: &SocketAddr| Listener {
        protocol,
        address: *address,
        tls: match protocol {
            "amqp/ssl" => tls.amqp.clone(),
            "https" => tls.management.clone(),
            "https/prometheus" => tls.metrics.clone(),
            _ => None,
        },
    };
    let mut all: Vec<Listener> = Vec::new();
    all.extend(settings.listeners.iter().map(|at| place("amqp", at)));
    all.extend(
        settings
            .tls_listeners
            .iter()
            .map(|at| place("amqp/ssl", at)),
    );
    let web = [
        ("http", settings.management[0]),
        ("https", settings.management[1]),
        ("http/prometheus", settings.metrics[0]),
        ("https/prometheus", settings.metrics[1]),
        ("clustering", settings.cluster.listener),
    ];
    let web = web
        .iter()
        .filter_map(|(name, at)| Some(place(name, at.as_ref()?)));
    all.extend(web);
    all
}
