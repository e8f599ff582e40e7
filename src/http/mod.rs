//! F8, what is served over HTTP: Prometheus metrics and the management API.
//!
//! Not here: business rules.

pub mod api;
mod metrics;

pub use metrics::{MetricsState, Names, serve};
