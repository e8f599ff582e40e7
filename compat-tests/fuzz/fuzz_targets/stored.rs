//! What a disk can send never panics: entries, snapshots of a set and of the topology. The checksums that would refuse
//! most inputs first are put right, so that what lies behind them is reached.
//! How it is run: `docs/testing.md`.
#![no_main]

use leveret::model::batch::{Batch, BatchError, Item, message, survivors};
use leveret::model::set::{MemoryPages, SetMachine};
use leveret::model::topology::Topology;
use libfuzzer_sys::fuzz_target;

/// Magic and version of a set's snapshot.
const HEAD: usize = 5;

fn entry(payload: &[u8]) -> Result<(), BatchError> {
    let mut batch = Batch::new(payload)?;
    while let Some((_, mut items)) = batch.next_chunk()? {
        while let Some(item) = items.next_item()? {
            if let Item::Publish(publish) = item {
                std::hint::black_box(publish.queues().count());
            }
        }
    }
    Ok(())
}

fn set(content: &[u8]) {
    let fresh = SetMachine::new(Box::new(MemoryPages::default())).snapshot();
    let mut bytes = fresh[..HEAD].to_vec();
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    if let Ok(mut machine) = SetMachine::restore(&bytes, Box::new(MemoryPages::default())) {
        std::hint::black_box(machine.snapshot());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, content)) = data.split_first() else {
        return;
    };
    match which % 3 {
        0 => {
            std::hint::black_box(entry(content).is_ok());
            let payload = bytes::Bytes::copy_from_slice(content);
            std::hint::black_box(message(&payload, 0).is_ok());
            std::hint::black_box(survivors(&payload, [0, 3, 4].into_iter()).is_some());
        }
        1 => set(content),
        _ => {
            let mut topology = Topology::new();
            if topology.restore(content).is_ok() {
                let again = topology.snapshot();
                topology
                    .restore(&again)
                    .expect("what was written is well-formed");
            }
        }
    }
});
