//! How nodes talk: gRPC over HTTP/2 by tonic, on one listener, with a shared secret and, if wanted, mutual TLS.
//!
//! | method | request | answer |
//! | --- | --- | --- |
//! | `Request` | one Raft message | one |
//! | `Appends` | a stream of entries | a stream, in order |
//! | `Snapshot` | a snapshot, the pages it names and the entries it leans on, as a stream | one |
//! | `Entry` | an index | the entry's payload, for a replica whose own is damaged |
//! | `Pipe` | sealed batches of one node for a set this node leads | nothing; the stream ends when it no longer leads |
//! | `Watch` | which pipe, and what it has seen | what the set did for that pipe |
//! | `Control` | one question about the cluster | one answer |
//!
//! Not here: what a batch does, what Raft decides.

pub mod control;
mod ending;
mod events;
mod frame;
mod hub;
mod links;
#[cfg(test)]
mod refusal_test;
mod service;
mod watch;
#[cfg(feature = "sim")]
pub mod wire;

pub use events::{Events, Head, WatchRequest};
pub use frame::Messages;
pub use hub::{Hosted, Hub};
pub use links::{Links, Own};
pub use service::{serve, serve_incoming};

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

const REQUEST: &str = "/leveret.Peer/Request";
const APPENDS: &str = "/leveret.Peer/Appends";
const SNAPSHOT: &str = "/leveret.Peer/Snapshot";
const ENTRY: &str = "/leveret.Peer/Entry";
const PIPE: &str = "/leveret.Peer/Pipe";
const WATCH: &str = "/leveret.Peer/Watch";
const CONTROL: &str = "/leveret.Peer/Control";

const CLUSTER: HeaderName = HeaderName::from_static("x-leveret-cluster");
const NODE: HeaderName = HeaderName::from_static("x-leveret-node");
const SET: HeaderName = HeaderName::from_static("x-leveret-set");
const AUTH: HeaderName = HeaderName::from_static("x-leveret-auth");

/// Certificates for talk between nodes, PEM.
#[derive(Clone, Debug)]
pub struct PeerTls {
    /// Who may have signed a peer's certificate.
    pub ca: Vec<u8>,
    /// This node's certificate, and those between it and the authority.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// What a peer must prove.
#[derive(Clone, Debug)]
pub struct PeerSecurity {
    /// Sent with every request: made of the shared secret, not the secret itself.
    token: HeaderValue,
    tls: Option<Arc<PeerTls>>,
}

impl PeerSecurity {
    /// From the secret all nodes share. Without TLS whoever can read the wire can learn the token.
    #[must_use]
    pub fn new(secret: &str, tls: Option<PeerTls>) -> Self {
        let digest = Sha256::new()
            .chain_update(b"leveret peer\0")
            .chain_update(secret.as_bytes())
            .finalize();
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut token =
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        token.set_sensitive(true);
        Self {
            token,
            tls: tls.map(Arc::new),
        }
    }

    /// Compares in a time that does not depend on where they differ.
    fn proves(&self, token: Option<&HeaderValue>) -> bool {
        let Some(token) = token.filter(|token| token.len() == self.token.len()) else {
            return false;
        };
        let pairs = token.as_bytes().iter().zip(self.token.as_bytes());
        pairs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}
