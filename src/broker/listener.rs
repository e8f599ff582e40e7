//! Accepts connections and gives each a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::connection;
use super::node::Node;

const BACKLOG: i32 = 1024;
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds an address.
///
/// # Errors
/// What the system says: in use, not ours, not allowed.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the node stops. While it takes no clients, nothing listens there: they are refused, and go elsewhere.
pub async fn accept(node: Arc<Node>, mut listener: TcpListener) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.suspended(true) => {
                drop(listener);
                let Some(again) = resumed(&node, address).await else {
                    return;
                };
                listener = again;
                continue;
            }
            () = node.supervisor.stopping() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "client left while it was accepted");
                    continue;
                }
                tracing::debug!(%peer, "accepting AMQP connection");
                node.connection_opened();
                node.stats.connections.inc();
                node.stats.connections_opened.inc();
                let run = connection::run(Arc::clone(&node), stream, peer);
                node.supervisor.spawn("connection", run);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The listener of an address once clients are taken again; `None` if the node stops before.
async fn resumed(node: &Node, address: SocketAddr) -> Option<TcpListener> {
    loop {
        tokio::select! {
            () = node.suspended(false) => {}
            () = node.supervisor.stopping() => return None,
        }
        match bind(address) {
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
