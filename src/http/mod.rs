//! F8, what is served over HTTP: Prometheus metrics the management API, and the control socket.
//!
//! Not here: business rules.

pub mod api;
pub mod control;
mod metrics;
mod tail;
mod web;

pub use api::{
    ApiOptions, DefaultLimits, DefaultPolicy, DefaultUser, Front, PasswordRule, Passwords,
    VhostDefaults,
};
pub use metrics::{MetricsOptions, MetricsState, Names, serve};
pub use tail::Tail;
pub use web::{Peer, WebListener};
