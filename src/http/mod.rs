//! F8, what is served over HTTP: Prometheus metrics.
//!
//! Not here: business rules; the management API (it follows on this server).

mod metrics;

pub use metrics::{MetricsState, Names, serve};
