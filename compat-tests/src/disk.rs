//! A disk of a few megabytes.
//!
//! Need: a disk that can be full, without filling the machine's.
//! Shape: a tmpfs mounted on a folder of its own; [`SmallDisk::fill`] takes room, [`SmallDisk::make_room`] gives it back.
//! Invariants: unmounted when dropped. Limits: mounting needs root; without it a test is skipped, and says so.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// See the module's head.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a disk of `mebibytes`; `None`, with the reason printed, where that is not allowed.
    #[must_use]
    pub fn mount(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(Self { folder }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        println!("skipped: a disk of {mebibytes} MiB cannot be mounted: {reason}");
        None
    }

    /// A folder on the disk.
    #[must_use]
    pub fn folder(&self) -> TempDir {
        TempDir::new_in(self.folder.path()).expect("a folder on the disk")
    }

    /// Writes a file of `mebibytes`.
    pub fn fill(&self, mebibytes: usize) {
        let mut file = File::create(self.ballast()).expect("a file on the disk");
        let block = vec![1; 1 << 20];
        for _ in 0..mebibytes {
            file.write_all(&block).expect("there is room");
        }
    }

    /// Writes a file until not a byte is left.
    pub fn fill_up(&self) {
        let mut file = File::create(self.ballast()).expect("a file on the disk");
        for block in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
    }

    /// Removes that file.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("the file is removed");
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a process that is just dying may still hold a file.
        drop(
            Command::new("umount")
                .arg("-l")
                .arg(self.folder.path())
                .status(),
        );
    }
}
