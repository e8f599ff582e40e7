//! Criterion benches of the floors.

mod route;

fn main() {
    let mut criterion = criterion::Criterion::default().configure_from_args();
    route::bench(&mut criterion);
    criterion.final_summary();
}
