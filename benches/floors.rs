//! Criterion benches of the floors.

mod route;

use criterion::{criterion_group, criterion_main};

criterion_group!(floors, route::bench);
criterion_main!(floors);
