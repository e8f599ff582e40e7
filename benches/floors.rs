//! Criterion benches of the floors: `cargo bench`, or one of them with `cargo bench -- decode`.

mod amqp;
mod route;
mod set;

use criterion::{criterion_group, criterion_main};

criterion_group!(floors, amqp::bench, route::bench, set::bench);
criterion_main!(floors);
