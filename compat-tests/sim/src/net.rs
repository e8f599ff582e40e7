//! Peers' connections over the simulated network. A node whose life has ended sends and hears nothing more, even within
//! the step in which it ends.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::{Stream, stream};
use leveret::cluster::peer::wire::{Dialled, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Where every node hears its peers.
pub const PORT: u16 = 25672;

struct Gate {
    stream: TcpStream,
    dead: Arc<AtomicBool>,
}

impl Gate {
    fn open(&self) -> io::Result<()> {
        match self.dead.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

thread_local! {
    /// Lives by the runtime they run in.
    static LIVES: std::cell::RefCell<std::collections::BTreeMap<String, Arc<AtomicBool>>> =
        const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
}

fn life() -> String {
    tokio::runtime::Handle::current().id().to_string()
}

/// The life that begins in this runtime.
pub fn begin(dead: &Arc<AtomicBool>) {
    LIVES.with_borrow_mut(|lives| lives.insert(life(), Arc::clone(dead)));
}

/// Dials a peer from whichever node runs now.
pub fn dial(address: String) -> Dialled {
    let dead = LIVES.with_borrow(|lives| lives.get(&life()).cloned());
    Box::pin(async move {
        let (host, port) = address.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let dead = dead.unwrap_or_default();
        if dead.load(Ordering::Acquire) {
            return std::future::pending().await;
        }
        let stream = TcpStream::connect((host.to_owned(), port)).await;
        if stream.is_err() {
            // A refusal takes its time, as the ports of a simulated host are few.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let stream = stream?;
        Ok(Wire(Box::new(Gate { stream, dead })))
    })
}

/// Connections from peers.
pub async fn listen(dead: Arc<AtomicBool>) -> io::Result<impl Stream<Item = io::Result<Wire>>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    Ok(stream::unfold(listener, move |listener| {
        let dead = Arc::clone(&dead);
        async move {
            let accepted = listener.accept().await;
            let wire = accepted.map(|(stream, _)| Wire(Box::new(Gate { stream, dead })));
            Some((wire, listener))
        }
    }))
}
