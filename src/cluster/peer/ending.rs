//! A peer's connection that ends with the node.
//!
//! Need: a node that stops inside its process and starts again must not be heard of by its old connections: whoever talks
//! over one would talk to sets that have stopped. The HTTP/2 server runs each connection in a task of its own, which it
//! leaves behind. Shape: once the node stops, whatever is read is the end, and nothing is written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::rt::Supervisor;

/// See the module's head.
pub(super) struct Ending<IO> {
    io: IO,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl<IO> Ending<IO> {
    pub(super) fn new(io: IO, supervisor: &Supervisor) -> Self {
        Self {
            io,
            stopped: Box::pin(supervisor.stopped()),
            over: false,
        }
    }

    /// Whether the node stops; if it does not, `context` is woken when it does.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.over = self.over || self.stopped.as_mut().poll(context).is_ready();
        self.over
    }
}

impl<IO: Connected> Connected for Ending<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Ending<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.is_over(context) {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.io).poll_read(context, into),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Ending<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.over {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Pin::new(&mut self.io).poll_write(context, from),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.over {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Pin::new(&mut self.io).poll_write_vectored(context, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_ends_when_the_node_stops() {
        let supervisor = Supervisor::default();
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Ending::new(near, &supervisor);
        far.write_all(b"a").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        let mut rest = Vec::new();
        let reading = near.read_to_end(&mut rest);
        let (read, _) = tokio::join!(reading, supervisor.stop(Duration::from_secs(1)));
        assert_eq!(read.unwrap(), 0);
        far.write_all(b"b").await.unwrap();
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
        let error = near.write_all(b"c").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
