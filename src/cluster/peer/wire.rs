//! The network of a simulation in place of the machine's: who dials, and what is dialled.
//!
//! Only under the feature `sim`. Not here: what is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection.
pub struct Wire(pub Box<dyn Duplex>);

/// A connection to come.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

/// Makes connections to `host:port`; set once, before the first.
pub static DIAL: OnceLock<fn(String) -> Dialled> = OnceLock::new();

/// A channel over [`DIAL`], connected at first use.
pub(super) fn connect(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(Connector)
}

struct Connector;

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: http::Uri) -> Self::Future {
        let address = to.authority().map(ToString::to_string).unwrap_or_default();
        Box::pin(async move {
            let dial = DIAL.get().ok_or_else(|| io::Error::other("no network"))?;
            Ok(TokioIo::new(dial(address).await?))
        })
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
