//! The only place that spawns tasks: named, counted, and awaited at shutdown; and pairs of sockets, which tokio has none of.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Two sockets of the loopback interface that are each other's peers: the listener between them lives for one connection
/// and takes the one that was made here.
///
/// # Errors
/// What the system says.
pub async fn socket_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let own = client.local_addr()?;
    loop {
        let (server, peer) = listener.accept().await?;
        // Another process may have found the port.
        if peer == own {
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            return Ok((client, server));
        }
    }
}

/// Spawns tasks and ends them.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    /// Spawns a task that ends by itself, or upon [`Self::stopping`]. `name` is for the log.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tracing::trace!(task = name, "task starts");
        self.tracker.spawn(task)
    }

    /// Completes when the node is asked to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// As [`Self::stopping`], for who outlives this handle.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// Whether the node was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks every task to stop and waits for them, at most `limit`. Returns whether all ended.
    pub async fn stop(&self, limit: std::time::Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
    }
}
