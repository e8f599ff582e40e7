//! What HTTP is served on: a listener that is plain or under TLS, behind one type for axum.
//!
//! A handshake is taken on while others go on, at most [`HANDSHAKES_MAX`] at a time and each within its timeout, so a
//! client that is slow or silent delays nobody until so many are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::broker::listener::canonical;
use crate::broker::tls::TlsServer;

const HANDSHAKES_MAX: usize = 256;
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Handshake = BoxFuture<'static, Option<(Stream, Peer)>>;

/// See the module's head.
pub struct WebListener {
    socket: TcpListener,
    tls: Option<(Arc<TlsServer>, Duration)>,
    handshakes: FuturesUnordered<Handshake>,
}

/// A client's address, IPv4 as IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, WebListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, WebListener>) -> Self {
        *stream.remote_addr()
    }
}

/// A client's socket.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// After the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl WebListener {
    /// Without TLS.
    #[must_use]
    pub fn plain(socket: TcpListener) -> Self {
        Self {
            socket,
            tls: None,
            handshakes: FuturesUnordered::new(),
        }
    }

    /// With it; a handshake takes at most `limit`.
    #[must_use]
    pub fn tls(socket: TcpListener, tls: Arc<TlsServer>, limit: Duration) -> Self {
        Self {
            tls: Some((tls, limit)),
            ..Self::plain(socket)
        }
    }
}

async fn secured(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: Peer,
    limit: Duration,
) -> Option<(Stream, Peer)> {
    match tokio::time::timeout(limit, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((Stream::Tls(Box::new(stream)), peer)),
        Ok(Err(error)) => {
            tracing::debug!(peer = %peer.0, %error, "TLS handshake of an HTTP client failed");
            None
        }
        Err(_) => None,
    }
}

impl Listener for WebListener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        loop {
            let may_accept = self.handshakes.len() < HANDSHAKES_MAX;
            let accepted = tokio::select! {
                Some(done) = self.handshakes.next() => match done {
                    Some(ready) => return ready,
                    None => continue,
                },
                accepted = self.socket.accept(), if may_accept => accepted,
            };
            match (accepted, &self.tls) {
                (Ok((stream, peer)), None) => {
                    return (Stream::Plain(stream), Peer(canonical(peer)));
                }
                (Ok((stream, peer)), Some((tls, limit))) => {
                    let acceptor = TlsAcceptor::from(tls.current());
                    let peer = Peer(canonical(peer));
                    let handshake = secured(acceptor, stream, peer, *limit);
                    self.handshakes.push(Box::pin(handshake));
                }
                (Err(error), _) => {
                    tracing::debug!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        self.socket.local_addr().map(Peer)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, from),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
