//! Tests of the queue machine: behaviours one by one, random lists against itself, and against a naive twin.

mod held;
mod late;
mod random;
mod script;
mod streams;
mod twin;
