//! Records read from disk, the least recently used leave first. Bounded in bytes.

use std::collections::{BTreeMap, HashMap};

use super::record::Record;

#[derive(Debug)]
pub(super) struct ReadCache {
    bytes: usize,
    bytes_max: usize,
    tick: u64,
    generation: u64,
    records: HashMap<u64, (Record, u64)>,
    by_age: BTreeMap<u64, u64>,
}

impl ReadCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            tick: 0,
            generation: 0,
            records: HashMap::new(),
            by_age: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, index: u64) -> Option<Record> {
        let (record, age) = self.records.get_mut(&index)?;
        self.by_age.remove(age);
        self.tick += 1;
        *age = self.tick;
        self.by_age.insert(self.tick, index);
        Some(record.clone())
    }

    /// Counts the times all was forgotten. To be asked before the disk is read.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a record that was read in `generation`; one that was read before all was forgotten may be of another log.
    pub(super) fn put(&mut self, record: Record, generation: u64) {
        if generation != self.generation || record.weight() > self.bytes_max {
            return;
        }
        self.remove(record.index);
        self.tick += 1;
        self.bytes += record.weight();
        self.by_age.insert(self.tick, record.index);
        self.records.insert(record.index, (record, self.tick));
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            self.remove(*oldest);
        }
    }

    pub(super) fn remove(&mut self, index: u64) {
        if let Some((record, age)) = self.records.remove(&index) {
            self.by_age.remove(&age);
            self.bytes -= record.weight();
        }
    }

    /// Forgets all: after anything that changes what an index means.
    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.records.clear();
        self.by_age.clear();
        self.bytes = 0;
    }
}
