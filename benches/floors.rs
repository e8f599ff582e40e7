//! Criterion benches of the floors.
fn main() {}
