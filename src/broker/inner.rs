//! Connections of the broker with itself: what it does as a client of its own.
//!
//! Shape: a pair of sockets that nobody else can get into, and a connection as any other. Not here: the client's side of
//! AMQP.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::connection::{self, Ends};
use super::node::Node;
use super::wire::Wire;
use crate::rt::socket_pair;

/// The client's end of a new connection. With `trusted` any login is good, and is [`OPERATOR`]'s; otherwise it is checked
/// as everyone's.
///
/// # Errors
/// What the system says; `ConnectionAborted` if the node stops.
///
/// [`OPERATOR`]: crate::model::topology::OPERATOR
pub async fn connect(node: &Arc<Node>, trusted: bool) -> io::Result<TcpStream> {
    if node.supervisor.is_stopping() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let (client, server) = socket_pair().await?;
    let ends = Ends {
        peer: client.local_addr()?,
        local: server.local_addr()?,
        trusted,
    };
    node.connection_opened();
    let served = connection::run(Arc::clone(node), Wire::plain(server), ends);
    node.supervisor.spawn("inner connection", served);
    Ok(client)
}
