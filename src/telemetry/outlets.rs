//! Where log lines go: standard output, a file, and the tail that commands read.
//!
//! The file is RabbitMQ's `log.file`: appended to, renamed to `.0`, `.1`, … when it is as long as configured or the operator
//! says so. If somebody else moved it (logrotate), it is only opened anew then, and at SIGHUP. Limits: a line that cannot be
//! written to the file is lost there; logging never stops the broker.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFile;
use crate::http::Tail;

/// The account that reads logs is in the broker's group.
const MODE: u32 = 0o640;

/// See the module's head.
#[derive(Debug)]
pub struct Outlets {
    console: bool,
    file: Option<Mutex<Log>>,
    tail: Arc<Tail>,
}

/// The file and how long it is.
#[derive(Debug)]
struct Log {
    options: LogFile,
    file: File,
    bytes: u64,
}

fn opened(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(MODE).open(path)
}

/// `name.0`, `name.1`, …
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Log {
    fn open(options: LogFile) -> io::Result<Self> {
        let file = opened(&options.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            options,
            file,
            bytes,
        })
    }

    /// Whether the path still names the open file.
    fn is_there(&self) -> bool {
        let (open, named) = (self.file.metadata(), std::fs::metadata(&self.options.path));
        match (open, named) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    /// Begins a new file; the old one is kept as far as configured.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.options.path;
        if self.is_there() {
            let kept = self.options.kept;
            match kept.checked_sub(1) {
                None => std::fs::remove_file(path)?,
                Some(last) => {
                    for number in (0..last).rev() {
                        let from = numbered(path, number);
                        if from.exists() {
                            std::fs::rename(from, numbered(path, number + 1))?;
                        }
                    }
                    std::fs::rename(path, numbered(path, 0))?;
                }
            }
        }
        self.file = opened(path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let long = self.options.size_max.is_some_and(|max| self.bytes >= max);
        if long {
            self.rotate()?;
        }
        self.file.write_all(text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

impl Outlets {
    /// As configured.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(console: bool, file: Option<LogFile>, tail: Arc<Tail>) -> io::Result<Self> {
        let file = file.map(Log::open).transpose()?;
        Ok(Self {
            console,
            file: file.map(Mutex::new),
            tail,
        })
    }

    /// Begins a new file, because the operator wants it; nothing if there is none.
    ///
    /// # Errors
    /// What the system says; then the old file is written to, or none.
    pub fn rotate(&self) -> io::Result<()> {
        match &self.file {
            Some(log) => log.lock().rotate(),
            None => Ok(()),
        }
    }

    /// Opens the file again if somebody moved it.
    ///
    /// # Errors
    /// What the system says.
    pub fn reopen(&self) -> io::Result<()> {
        match &self.file {
            Some(log) => {
                let mut log = log.lock();
                if log.is_there() { Ok(()) } else { log.rotate() }
            }
            None => Ok(()),
        }
    }
}

/// Writes one event.
#[derive(Debug)]
pub struct Pen<'a>(&'a Outlets);

impl Write for Pen<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.tail.add(&String::from_utf8_lossy(text));
        if let Some(log) = &self.0.file {
            // A full disk must not stop what else the line is for.
            drop(log.lock().write(text));
        }
        match self.0.console {
            true => io::stdout().write_all(text).map(|()| text.len()),
            false => Ok(text.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Outlets {
    type Writer = Pen<'a>;

    fn make_writer(&'a self) -> Pen<'a> {
        Pen(self)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn log(folder: &Path, size_max: Option<u64>, kept: u32) -> (PathBuf, Outlets) {
        let path = folder.join("a/rabbit.log");
        let file = LogFile {
            path: path.clone(),
            size_max,
            kept,
        };
        let outlets = Outlets::open(false, Some(file), Arc::default()).unwrap();
        (path, outlets)
    }

    fn say(outlets: &Outlets, text: &str) {
        Pen(outlets).write_all(text.as_bytes()).unwrap();
    }

    fn read(path: PathBuf) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    #[test]
    fn a_file_as_long_as_configured_makes_way_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, outlets) = log(folder.path(), Some(4), 2);
        for text in ["1111", "2222", "3333", "44", "44", "5"] {
            say(&outlets, text);
        }
        let found = [
            path.clone(),
            numbered(&path, 0),
            numbered(&path, 1),
            numbered(&path, 2),
        ];
        let found = found.map(read);
        let want = ["5", "4444", "3333"].map(|text| Some(text.to_owned()));
        assert_eq!(found[..3], want);
        assert_eq!(found[3], None);
        assert_eq!(outlets.tail.last(9), "11112222333344445");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_and_nothing_else_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, outlets) = log(folder.path(), None, 5);
        say(&outlets, "old");
        let away = folder.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        say(&outlets, "er");
        outlets.reopen().unwrap();
        say(&outlets, "new");
        outlets.reopen().unwrap();
        say(&outlets, "er");
        assert_eq!(read(away).unwrap(), "older");
        assert_eq!(read(path.clone()).unwrap(), "newer");
        outlets.rotate().unwrap();
        say(&outlets, "last");
        assert_eq!(read(numbered(&path, 0)).unwrap(), "newer");
        assert_eq!(read(path).unwrap(), "last");
    }

    #[test]
    fn what_was_there_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, first) = log(folder.path(), None, 0);
        say(&first, "one ");
        let (_, second) = log(folder.path(), None, 0);
        say(&second, "two");
        assert_eq!(read(path.clone()).unwrap(), "one two");
        second.rotate().unwrap();
        assert_eq!(read(path.clone()).unwrap(), "");
        assert_eq!(read(numbered(&path, 0)), None);
    }
}
