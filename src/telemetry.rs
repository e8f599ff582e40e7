//! Log lines, in RabbitMQ's form or as JSON; where they go is in [`outlets`].
//!
//! `2026-11-22 08:43:07.123456+00:00 [info] <0.0.0> message key=value`. Times are UTC with microseconds. A message of several
//! lines repeats the prefix on each, so every line can be read alone. Not here: metrics.

mod outlets;

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::base::civil;
use crate::config::{Config, LogFormat, LogLevel};
use crate::http::Tail;
use outlets::Outlets;

/// Why lines cannot be logged.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The process logs already.
    #[error("a subscriber is set already")]
    AlreadySet,
    /// The process does not log, so its levels cannot change.
    #[error("there is no subscriber")]
    NotStarted,
    /// A category that is not a name.
    #[error("log level for `{0}`: not a category")]
    Category(String),
    /// The file that lines are to go to.
    #[error("log file {path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Where lines go, as long as the process runs.
static OUTLETS: OnceLock<Outlets> = OnceLock::new();

/// Begins to log as the configuration says, and into this tail. Once in a process.
///
/// # Errors
/// See [`TelemetryError`].
pub fn start(config: &Config, tail: Arc<Tail>) -> Result<(), TelemetryError> {
    let filter = filter(config)?;
    let outlets = Outlets::open(config.log_console, config.log_file.clone(), tail);
    let outlets = outlets.map_err(|error| file_error(config, error))?;
    OUTLETS
        .set(outlets)
        .map_err(|_| TelemetryError::AlreadySet)?;
    let outlets = OUTLETS.get().ok_or(TelemetryError::NotStarted)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(outlets);
    let (set, change): (_, Change) = match config.log_format {
        LogFormat::Plain => {
            let builder = builder.event_format(Lines).with_filter_reloading();
            let handle = builder.reload_handle();
            (
                builder.try_init(),
                Box::new(move |filter| handle.reload(filter).is_ok()),
            )
        }
        LogFormat::Json => {
            let builder = builder.event_format(Json).with_filter_reloading();
            let handle = builder.reload_handle();
            (
                builder.try_init(),
                Box::new(move |filter| handle.reload(filter).is_ok()),
            )
        }
    };
    set.map_err(|_| TelemetryError::AlreadySet)?;
    CHANGE.set(change).map_err(|_| TelemetryError::AlreadySet)
}

fn file_error(config: &Config, error: io::Error) -> TelemetryError {
    let path = config.log_file.as_ref().map(|file| file.path.clone());
    TelemetryError::File {
        path: path.unwrap_or_default(),
        error,
    }
}

/// Begins a new log file, keeping the old one as configured; with `moved` only if somebody moved the old one away.
///
/// # Errors
/// What the system says; then the old file goes on.
pub fn rotate(moved: bool) -> io::Result<()> {
    match OUTLETS.get() {
        Some(outlets) if moved => outlets.reopen(),
        Some(outlets) => outlets.rotate(),
        None => Ok(()),
    }
}

type Change = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Changes the levels of the process.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Logs at this configuration's levels from here on. Its form cannot change.
///
/// # Errors
/// See [`TelemetryError`]; then nothing changes.
pub fn relevel(config: &Config) -> Result<(), TelemetryError> {
    let filter = filter(config)?;
    match CHANGE.get().is_some_and(|change| change(filter)) {
        true => Ok(()),
        false => Err(TelemetryError::NotStarted),
    }
}

fn word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warn",
        LogLevel::Error => "error",
        LogLevel::None => "off",
    }
}

/// RabbitMQ's categories by the modules that speak of them.
fn filter(config: &Config) -> Result<EnvFilter, TelemetryError> {
    let level = word(config.log_level);
    // openraft tells of every vote at info; that is our debug. What lapin calls an error is told by the shovel it ends.
    let mut directives = match config.log_level {
        LogLevel::Debug => format!("{level},openraft=info"),
        _ => format!("{level},openraft=error,lapin=off"),
    };
    for (category, level) in &config.log_categories {
        let wrong = || TelemetryError::Category(category.clone());
        if !category
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            return Err(wrong());
        }
        let module = match category.as_str() {
            "connection" => "leveret::broker::connection",
            "channel" => "leveret::session",
            "queue" => "leveret::model",
            "ra" => "openraft",
            "prometheus" => "leveret::http",
            other => other,
        };
        write!(directives, ",{module}={}", word(*level)).map_err(|_| wrong())?;
    }
    EnvFilter::try_new(&directives).map_err(|_| TelemetryError::Category(directives))
}

/// RabbitMQ's lines.
struct Lines;
/// One JSON object per line.
struct Json;

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// An event's message, and its other fields as text.
#[derive(Default)]
struct Parts {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
}

impl Parts {
    fn of(event: &Event<'_>) -> Self {
        let mut parts = Self::default();
        event.record(&mut parts);
        parts
    }

    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }

    fn write_lines(&self, time: SystemTime, level: Level, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            if !text.is_empty() {
                text.push(' ');
            }
            write!(text, "{name}={value}")?;
        }
        let stamp = Stamp(time);
        for line in text.split('\n') {
            // A client can put anything into a message: no line may be forged by it.
            let line: String = line
                .chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .collect();
            writeln!(out, "{stamp} [{}] <0.0.0> {line}", level_name(level))?;
        }
        Ok(())
    }

    fn write_json(
        &self,
        time: SystemTime,
        event: (Level, &str),
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        write!(
            out,
            "{{\"time\":\"{}\",\"level\":\"{}\"",
            Stamp(time),
            level_name(event.0)
        )?;
        out.write_str(",\"msg\":")?;
        quoted(&self.message, out)?;
        out.write_str(",\"domain\":")?;
        quoted(&event.1.replace("::", "."), out)?;
        for (name, value) in &self.fields {
            out.write_char(',')?;
            quoted(name, out)?;
            out.write_char(':')?;
            quoted(value, out)?;
        }
        out.write_str("}\n")
    }
}

fn quoted(text: &str, out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        Parts::of(event).write_lines(SystemTime::now(), *event.metadata().level(), &mut writer)
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = (*event.metadata().level(), event.metadata().target());
        Parts::of(event).write_json(SystemTime::now(), about, &mut writer)
    }
}

/// A time as RFC 3339 with a space, microseconds, UTC.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (s, us) = (since.as_secs(), since.subsec_micros());
        let (year, month, day) = civil(s / 86_400);
        let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{us:06}+00:00"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(s: u64, us: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(s, us * 1000)
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        let cases = [
            (0, 0, "1970-01-01 00:00:00.000000+00:00"),
            (951_782_400, 1, "2000-02-29 00:00:00.000001+00:00"),
            (951_868_800, 0, "2000-03-01 00:00:00.000000+00:00"),
            (1_704_067_199, 999_999, "2023-12-31 23:59:59.999999+00:00"),
            (4_107_542_400, 0, "2100-03-01 00:00:00.000000+00:00"),
        ];
        for (s, us, want) in cases {
            assert_eq!(Stamp(at(s, us)).to_string(), want);
        }
    }

    fn parts() -> Parts {
        Parts {
            message: "one\ntwo\u{1b}[31m".to_owned(),
            fields: vec![("port", "5".to_owned())],
        }
    }

    #[test]
    fn each_line_of_a_message_has_the_prefix_and_no_control_characters() {
        let mut out = String::new();
        parts()
            .write_lines(at(0, 0), Level::WARN, &mut out)
            .unwrap();
        let prefix = "1970-01-01 00:00:00.000000+00:00 [warning] <0.0.0> ";
        assert_eq!(out, format!("{prefix}one\n{prefix}two[31m port=5\n"));
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        let mut out = String::new();
        parts()
            .write_json(at(0, 0), (Level::INFO, "leveret::broker"), &mut out)
            .unwrap();
        let want = concat!(
            "{\"time\":\"1970-01-01 00:00:00.000000+00:00\",\"level\":\"info\",",
            "\"msg\":\"one\\ntwo\\u001b[31m\",\"domain\":\"leveret.broker\",\"port\":\"5\"}\n"
        );
        assert_eq!(out, want);
    }

    #[test]
    fn a_category_is_a_module_with_its_own_level() {
        let mut config = Config::default();
        config
            .log_categories
            .push(("ra".to_owned(), LogLevel::Debug));
        let directives = filter(&config).unwrap().to_string();
        assert_eq!(directives, "openraft=debug,lapin=off,info");
        config
            .log_categories
            .push(("a,b=x".to_owned(), LogLevel::Debug));
        assert!(matches!(filter(&config), Err(TelemetryError::Category(_))));
    }
}
