//! Accepts connections and gives each a task of its own; what comes before AMQP is done there: the PROXY header, the
//! TLS handshake.
//!
//! Bounds: both within their timeouts, and a handshake under way holds no more than rustls's buffers. Nothing a client
//! does here delays another one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Ends};
use super::node::Node;
use super::proxy;
use super::tls::TlsServer;
use super::wire::Wire;

/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection's first silence before the system asks whether its peer lives.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// How sockets are made (`tcp_listen_options`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections the system holds until they are accepted.
    pub backlog: u16,
    /// Send small segments at once.
    pub nodelay: bool,
    /// Let the system find dead peers.
    pub keepalive: bool,
    /// The system's send buffer, bytes; `None`: its own choice.
    pub send_buffer: Option<u32>,
    /// The system's receive buffer, bytes.
    pub receive_buffer: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            backlog: 1024,
            nodelay: true,
            keepalive: false,
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

/// How clients come in at one listener.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Under TLS.
    pub tls: Option<Arc<TlsServer>>,
    /// Behind a balancer that says whom each is from.
    pub proxy: bool,
    /// Longest TLS handshake; 0: the default.
    pub tls_timeout: Duration,
    /// Longest wait for the PROXY header.
    pub proxy_timeout: Duration,
    /// The sockets.
    pub socket: SocketOptions,
}

/// Binds an address. The unspecified IPv6 address takes IPv4 as well, and stands for IPv4 alone where there is no IPv6.
///
/// # Errors
/// What the system says: in use, not ours, not allowed.
pub fn bind(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    match bound(address, options) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            bound((Ipv4Addr::UNSPECIFIED, address.port()).into(), options)
        }
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(libc::EAFNOSUPPORT) || code == Some(libc::EADDRNOTAVAIL)
}

fn bound(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit these.
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::from(options.backlog))?;
    TcpListener::from_std(socket.into())
}

/// An address as people write it: IPv4 that came over an IPv6 socket is IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Accepts until the node stops. While it takes no clients, nothing listens there: they are refused, and go elsewhere.
pub async fn accept(node: Arc<Node>, mut listener: TcpListener, entry: Entry) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let entry = Arc::new(entry);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.suspended(true) => {
                drop(listener);
                let Some(again) = resumed(&node, address, &entry.socket).await else {
                    return;
                };
                listener = again;
                continue;
            }
            () = node.supervisor.stopping() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(entry.socket.nodelay) {
                    tracing::debug!(%peer, %error, "client left while it was accepted");
                    continue;
                }
                node.connection_opened();
                let serve = serve(Arc::clone(&node), stream, peer, Arc::clone(&entry));
                node.supervisor.spawn("connection", serve);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The listener of an address once clients are taken again; `None` if the node stops before.
async fn resumed(node: &Node, address: SocketAddr, options: &SocketOptions) -> Option<TcpListener> {
    loop {
        tokio::select! {
            () = node.suspended(false) => {}
            () = node.supervisor.stopping() => return None,
        }
        match bind(address, options) {
            Ok(listener) => return Some(listener),
            Err(error) => {
                tracing::error!(%address, %error, "cannot listen again yet");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = node.supervisor.stopping() => return None,
                }
            }
        }
    }
}

async fn serve(node: Arc<Node>, stream: TcpStream, peer: SocketAddr, entry: Arc<Entry>) {
    let local = stream.local_addr().unwrap_or(peer);
    let mut ends = Ends {
        peer: canonical(peer),
        local: canonical(local),
        trusted: false,
    };
    let entered = tokio::select! {
        entered = enter(stream, &entry, &mut ends) => entered,
        () = node.supervisor.stopping() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let (peer, local) = (ends.peer, ends.local);
    match entered {
        Ok(wire) => {
            tracing::debug!("accepting AMQP connection {peer} -> {local}");
            connection::run(node, wire, ends).await;
        }
        Err(error) => {
            use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
            // Health checks open a socket and leave.
            match error.kind() {
                UnexpectedEof | ConnectionReset | ConnectionAborted => {
                    tracing::debug!(%peer, %error, "client left before AMQP began");
                }
                _ => tracing::warn!(%peer, %error, "connection refused before AMQP began"),
            }
            node.connection_closed();
        }
    }
}

/// What comes before AMQP.
async fn enter(mut stream: TcpStream, entry: &Entry, ends: &mut Ends) -> io::Result<Wire> {
    if entry.proxy {
        let said = proxy::read(&mut stream);
        let said = timeout(entry.proxy_timeout, said).await;
        if let proxy::Said::Ends(from, to) = said.map_err(|_| late("no PROXY header in time"))?? {
            ends.peer = canonical(from);
            ends.local = canonical(to);
        }
    }
    let Some(tls) = &entry.tls else {
        return Ok(Wire::plain(stream));
    };
    let handshake = TlsAcceptor::from(tls.current()).accept(stream);
    let stream = timeout(entry.tls_timeout, handshake).await;
    let stream = stream.map_err(|_| late("TLS handshake timeout"))?;
    let (stream, machine) = stream
        .map_err(|error| io::Error::new(error.kind(), format!("TLS handshake: {error}")))?
        .into_inner();
    Ok(Wire::tls(stream, machine))
}

fn late(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}
