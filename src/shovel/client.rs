//! A connection to one end of a shovel. The client is lapin; here is what it runs over.
//!
//! This cluster is reached through [`connect_inner`], another broker over TCP. Under TLS lapin talks to one end of a pair
//! of sockets of ours, and what it says is carried through rustls by a task beside it. Bounds: frames of [`FRAME_MAX`],
//! for which lapin keeps 32 in either direction; [`CONNECT_LIMIT`] until it is open.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_compat::CompatExt;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{Connection, ConnectionProperties};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::uri::Uri;
use crate::broker::tls::{TlsClientOptions, TlsError, build_client};
use crate::broker::{Node, connect_inner};
use crate::rt::socket_pair;

/// Bytes.
const FRAME_MAX: u32 = 32 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Who connects to itself: checked by nobody.
const NOBODY: &str = "none";
/// Whom RabbitMQ's client is without a name.
const DEFAULT_USER: &str = "guest";

/// Why an end cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Before AMQP began.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Certificates or keys the address names.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// What the broker there answered, or the connection's end.
    #[error("{}", said(.0))]
    Amqp(#[from] lapin::Error),
    /// In our own words.
    #[error("{0}")]
    Other(&'static str),
}

/// The broker's own words, where it has said any.
fn said(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

/// Connects; `name` is what the connection calls itself.
pub(super) async fn connect(node: &Arc<Node>, uri: &Uri, name: &str) -> Result<Connection, Fault> {
    let connecting = async {
        let stream = match (&uri.host, &uri.tls) {
            (None, _) => connect_inner(node, uri.login.is_none()).await?,
            (Some((host, port)), None) => TcpStream::connect((host.as_str(), *port)).await?,
            (Some((host, port)), Some(tls)) => under_tls(node, host, *port, tls).await?,
        };
        stream.set_nodelay(true)?;
        open(uri, stream, name).await
    };
    let limit = uri.connection_timeout.map(Duration::from_millis);
    let limit = limit.unwrap_or(CONNECT_LIMIT).min(CONNECT_LIMIT);
    let connected = tokio::time::timeout(limit, connecting).await;
    connected.unwrap_or(Err(Fault::Other("no connection in time")))
}

async fn open(uri: &Uri, stream: TcpStream, name: &str) -> Result<Connection, Fault> {
    let (username, password) = match (&uri.login, &uri.host) {
        (Some(login), _) => login.clone(),
        (None, None) => (NOBODY.to_owned(), String::new()),
        (None, Some(_)) => (DEFAULT_USER.to_owned(), DEFAULT_USER.to_owned()),
    };
    let (host, port) = uri.host.clone().unwrap_or_default();
    let address = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password },
            host,
            port,
        },
        vhost: uri.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(uri.frame_max.unwrap_or(FRAME_MAX).min(FRAME_MAX)),
            channel_max: uri.channel_max,
            heartbeat: uri.heartbeat,
            connection_timeout: None,
            auth_mechanism: uri.external.then_some(SASLMechanism::External),
        },
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    // It is asked for once: lapin recovers nothing here.
    let stream = Mutex::new(Some(stream));
    let over = async move |_, _| {
        let stream = stream.lock().take();
        let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(AsyncTcpStream::Plain(stream.compat()))
    };
    Ok(Connection::connector(address, runtime, over, properties).await?)
}

async fn under_tls(
    node: &Arc<Node>,
    host: &str,
    port: u16,
    options: &TlsClientOptions,
) -> Result<TcpStream, Fault> {
    let config = build_client(options)?;
    let asked = options.server_name.as_deref().unwrap_or(host).to_owned();
    let asked = ServerName::try_from(asked).map_err(|_| Fault::Other("no name TLS can ask for"))?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let mut outer = TlsConnector::from(Arc::new(config))
        .connect(asked, stream)
        .await?;
    let (client, mut inner) = socket_pair().await?;
    node.supervisor.spawn("shovel tls", async move {
        // Either side's end is the connection's, of which lapin hears.
        if let Err(error) = tokio::io::copy_bidirectional(&mut inner, &mut outer).await {
            tracing::debug!(%error, "a shovel's TLS connection ended");
        }
    });
    Ok(client)
}
