//! Logs: their levels and form. Lines go to standard output only.

use super::super::draft::Draft;
use super::super::value::{self, Expected};
use super::super::{LogFormat, keys::Remark};
use super::{Key, ignored, set};

const NO_FILE: &str = "log lines go to standard output only";

pub(super) static KEYS: &[Key] = &[
    set(
        "log.console",
        "switch",
        "true",
        "lines go to standard output in any case",
        |_, _, v| Ok((!value::switch(v)?).then_some(NO_FILE)),
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
    ignored("log.console.*", "lines have one form"),
    ignored("log.file", NO_FILE),
    ignored("log.file.*", NO_FILE),
    ignored("log.dir", NO_FILE),
    ignored("log.exchange", "not served yet"),
    ignored("log.exchange.*", "not served yet"),
    ignored("log.syslog", NO_FILE),
    ignored("log.syslog.*", NO_FILE),
    ignored("log.journald", NO_FILE),
    ignored("log.journald.*", NO_FILE),
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
];

fn level(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.log_level = value::level(v)?;
    Ok(None)
}
