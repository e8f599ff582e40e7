//! docs/configuration.md, made from the tables that are in force. `leveret config docs` prints it; a test compares.

use std::fmt::Write as _;

use super::environment::VARIABLES;
use super::keys::{CHAPTERS, Effect, Key};

const HEAD: &str = "# Configuration

This file is printed by `leveret config docs`; change the tables in `src/config`, not this text.

Leveret reads RabbitMQ's `key = value` files: `/etc/rabbitmq/rabbitmq.conf`, then `/etc/rabbitmq/conf.d/*.conf` in order
(`--config FILE` in place of both), then the environment, then its own options. Later ones win. A key that does not exist, or
a value it does not take, ends the start with its file and line; all of them are told at once. Keys that RabbitMQ has and that
mean nothing here are accepted, and each is logged once with the reason. `leveret config check FILE` says the same without
starting anything.

`#` begins a comment, unless it stands between `'…'`. `$(NAME)` is replaced from the environment. Sizes take `kB`, `MB`, `GB`,
`TB` (powers of ten) and `KiB`, `MiB`, `GiB`, `TiB`, or `k`, `m`, `g`, `t` (powers of two). Switches are `true` and `false`. Addresses
are a port, or `ip:port`; `[::]` takes IPv4 too. In a key `$n` stands for any word, `*` for the rest.

**live**: at `SIGHUP` (`systemctl reload`) files are read again, and a new value of this key is in force for connections from
then on, or at once where it is about the node; certificates and keys are read again too. What needs a restart is logged by name.
";

/// The document.
#[must_use]
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for (title, rows) in &CHAPTERS {
        let chapter = chapter(title, rows);
        out.push_str(&chapter);
    }
    out.push_str("\n## Environment\n\n| variable | what it decides |\n| --- | --- |\n");
    for (name, about) in VARIABLES {
        put(&mut out, format_args!("| `{name}` | {about} |\n"));
    }
    out.push_str(
        "\nRefused at the start, as by RabbitMQ's images: `RABBITMQ_DEFAULT_USER_FILE`, `RABBITMQ_DEFAULT_PASS_FILE`,\n\
         `RABBITMQ_VM_MEMORY_HIGH_WATERMARK`, `RABBITMQ_SSL_*`, `RABBITMQ_MANAGEMENT_SSL_*`.\n",
    );
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string grows; writing to it cannot fail.
    if out.write_fmt(text).is_err() {
        out.clear();
    }
}

fn chapter(title: &str, rows: &[Key]) -> String {
    let mut out = format!("\n## {title}\n");
    let (mut taken, mut others) = (String::new(), String::new());
    for row in rows {
        let pattern = row.pattern;
        match row.effect {
            Effect::Set(_) => {
                let live = if row.live { "live" } else { "" };
                let default = match row.default {
                    "" => String::new(),
                    text => format!("`{text}`"),
                };
                let (unit, about) = (row.unit, row.about);
                put(
                    &mut taken,
                    format_args!("| `{pattern}` | {unit} | {default} | {about} | {live} |\n"),
                );
            }
            Effect::Ignored(why) => put(
                &mut others,
                format_args!("| `{pattern}` | accepted, no effect | {why} |\n"),
            ),
            Effect::Refused(why) => put(
                &mut others,
                format_args!("| `{pattern}` | refused | {why} |\n"),
            ),
        }
    }
    if !taken.is_empty() {
        out.push_str(
            "\n| key | value | default | what it decides | |\n| --- | --- | --- | --- | --- |\n",
        );
        out.push_str(&taken);
    }
    if !others.is_empty() {
        out.push_str("\n| key | | why |\n| --- | --- | --- |\n");
        out.push_str(&others);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_docs_is_what_is_printed() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let want = markdown();
        if there == want {
            return;
        }
        let at = there.lines().zip(want.lines()).position(|(a, b)| a != b);
        let line = at.map(|at| want.lines().nth(at).unwrap_or_default());
        panic!(
            "docs/configuration.md differs at line {at:?}: {line:?}; `leveret config docs > docs/configuration.md`"
        );
    }

    #[test]
    fn every_key_stands_in_the_document_once() {
        let text = markdown();
        for row in super::super::keys::all() {
            let cell = format!("\n| `{}` |", row.pattern);
            assert_eq!(text.matches(&cell).count(), 1, "{}", row.pattern);
        }
    }
}
