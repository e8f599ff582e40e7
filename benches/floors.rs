//! Criterion benches of the floors.

mod amqp;

use criterion::{criterion_group, criterion_main};

criterion_group!(floors, amqp::bench);
criterion_main!(floors);
