//! F4, the log of one broker set, which is also its message store. Std threads; what the bytes mean is not known here.
//!
//! Shape: [`Log`] keeps the youngest records in memory, one writer thread commits them in groups to segments, old
//! records are read back by index for as long as their segment lives. Next to it: durable snapshots
//! ([`snapshot_file`]) and the pages of indexes ([`page_file`]).
//! Invariants
//!   a record whose `done` said Ok is on disk          and comes back after any crash
//!   a record that comes back is the one written       every read is checked against its crc
//!   after a failed write or sync nothing is written   the log is poisoned until it is opened again
//! Limits: memory is the tail cache, the read cache, one write buffer, and about 100 bytes per sealed segment.
//! Not here: which records are live, when to purge, what a snapshot says.

mod appender;
mod cache;
mod compaction;
mod disk;
mod disk_os;
mod error;
mod install;
mod options;
pub mod page_file;
mod read_buffers;
mod reading;
mod record;
mod recovery;
mod repair;
mod segment;
mod segment_file;
pub mod snapshot_file;
mod spare;
mod stats;
mod turns;
mod wal;
mod writer;

pub use compaction::{CompactOutcome, Fate};
pub use disk::{Disk, DiskFile, OpenMode};
pub use disk_os::OsDisk;
pub use error::LogError;
pub use install::Install;
pub use options::LogOptions;
pub use page_file::PageFiles;
pub use record::Record;
pub use recovery::{Damage, Recovered};
pub use repair::{Repair, Repaired};
pub use segment::SegmentInfo;
pub use stats::LogStats;
pub use turns::{Turns, Wake, WriterHost};
pub use wal::{Done, Log};

#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod fault_test;
#[cfg(any(test, feature = "sim"))]
pub mod faulty_disk;
#[cfg(test)]
mod install_test;
#[cfg(test)]
mod log_test;
#[cfg(test)]
mod repair_test;
#[cfg(test)]
mod truncate_test;
