//! Logs: their levels and form, and the file they go to.

use super::super::draft::Draft;
use super::super::value::{self, Expected};
use super::super::{LogFile, LogFormat, keys::Remark};
use super::{Key, ignored, set};
use std::path::PathBuf;

const ELSEWHERE: &str = "log lines go to standard output and to one file only";
const ONE_FORM: &str = "every line goes wherever lines go, in one form";
/// RabbitMQ's.
const FOLDER: &str = "/var/log/rabbitmq";
const KEPT: u32 = 5;

/// What is said of the file.
#[derive(Debug)]
pub struct Written {
    /// Its folder, if its name is none of a whole path.
    pub folder: PathBuf,
    /// Its name.
    pub name: Option<PathBuf>,
    size_max: Option<u64>,
    kept: u32,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            folder: FOLDER.into(),
            name: None,
            size_max: None,
            kept: KEPT,
        }
    }
}

impl Written {
    /// Put together.
    pub fn finish(self) -> Option<LogFile> {
        let path = self.folder.join(self.name?);
        Some(LogFile {
            path,
            size_max: self.size_max,
            kept: self.kept,
        })
    }
}

pub(super) static KEYS: &[Key] = &[
    set(
        "log.console",
        "switch",
        "true",
        "whether lines go to standard output; without a file they do in any case",
        |d, _, v| {
            d.config.log_console = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "log.console.level",
        "debug, info, notice, warning, error, critical, none",
        "info",
        "least severe line logged",
        level,
    )
    .live(),
    set(
        "log.default.level",
        "as above",
        "info",
        "another name of `log.console.level`",
        level,
    )
    .live(),
    set(
        "log.console.formatter",
        "plaintext, json",
        "plaintext",
        "RabbitMQ's lines, or one JSON object a line",
        |d, _, v| {
            let name = value::one_of(v, &["plaintext", "json"])?;
            d.config.log_format = match name.as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Plain,
            };
            Ok(None)
        },
    ),
    ignored("log.console.*", ONE_FORM),
    set(
        "log.file",
        "file, or false",
        "false",
        "a file that lines are appended to",
        |d, _, v| {
            d.log.name = (v != "false").then(|| v.into());
            Ok(None)
        },
    ),
    set(
        "log.dir",
        "folder",
        FOLDER,
        "where the file is, if it is not named with its folder",
        |d, _, v| {
            d.log.folder = v.into();
            Ok(None)
        },
    ),
    set(
        "log.file.rotation.size",
        "bytes",
        "0",
        "length from which on another is begun, and the old one renamed to `.0`, `.1`, …; 0: none",
        |d, _, v| {
            d.log.size_max = Some(value::bytes(v)?).filter(|size| *size > 0);
            Ok(None)
        },
    ),
    set(
        "log.file.rotation.count",
        "count",
        "5",
        "how many old ones are kept",
        |d, _, v| {
            d.log.kept = value::number_u32(v, 0)?;
            Ok(None)
        },
    ),
    ignored("log.file.*", ONE_FORM),
    ignored("log.exchange", "not served yet"),
    ignored("log.exchange.*", "not served yet"),
    ignored("log.syslog", ELSEWHERE),
    ignored("log.syslog.*", ELSEWHERE),
    ignored("log.journald", ELSEWHERE),
    ignored("log.journald.*", ELSEWHERE),
    set(
        "log.$category.level",
        "as above",
        "",
        "level of a category: connection, channel, queue, ra, prometheus, or a module's path",
        |d, category, v| {
            let level = value::level(v)?;
            d.config.log_categories.retain(|(name, _)| name != category);
            d.config.log_categories.push((category.to_owned(), level));
            Ok(None)
        },
    )
    .live(),
    ignored("log.$category.file", ELSEWHERE),
    ignored("log.$category.rotation.$what", ELSEWHERE),
];

fn level(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.log_level = value::level(v)?;
    Ok(None)
}
