//! A table that is read is written and read again the same.
//! How it is run: `docs/testing.md`.
#![no_main]

use leveret::amqp::value::{table_from_body, table_from_bytes, table_to_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(table) = table_from_body(data) {
        let bytes = table_to_bytes(&table).expect("what was read is within the depth limit");
        let again = table_from_bytes(&bytes).expect("what was written is well-formed");
        // NaN differs from itself, its bytes do not.
        assert_eq!(bytes, table_to_bytes(&again).expect("as before"));
    }
});
