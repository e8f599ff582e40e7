//! F8, what is served over HTTP: Prometheus metrics and the management API.
//!
//! Not here: business rules.

pub mod api;
mod metrics;
mod web;

pub use metrics::{MetricsState, Names, serve};
pub use web::{Peer, WebListener};
