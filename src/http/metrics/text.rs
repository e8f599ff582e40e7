//! Prometheus text, written straight into one buffer: 20 000 queues are half a million lines, and a tree of them in memory
//! would cost more than everything else of a scrape.

use std::fmt::{Display, Write};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Neither is claimed.
    Untyped,
}

/// A metric of a table: its name, its help, and what it is of a row. One that ends with `_total` is a counter, another a
/// gauge.
pub type Metric<R, V> = (&'static str, &'static str, fn(&R) -> V);

/// See the module's head.
#[derive(Debug)]
pub struct Text {
    out: String,
    prefix: &'static str,
    /// The family that samples belong to, with its prefix.
    family: String,
}

impl Text {
    /// Nothing yet; families of RabbitMQ's begin with `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        Self {
            out: String::new(),
            prefix,
            family: String::new(),
        }
    }

    /// Begins a family under the prefix.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let full = format!("{}{name}", self.prefix);
        self.raw_family(&full, kind, help);
    }

    /// Begins a family of just this name.
    pub fn raw_family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Untyped => "untyped",
        };
        name.clone_into(&mut self.family);
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the family, with labels as [`labels`] writes them.
    pub fn sample(&mut self, labels: &str, value: impl Display) {
        self.out.push_str(&self.family);
        if !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(labels);
            self.out.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample("", value);
    }

    /// A family for each metric of a table, each with a sample for every row: its labels, and what it is. Names begin with
    /// `prefix`; `None`: with the text's own.
    pub fn families<'r, R: 'r, V: Display>(
        &mut self,
        prefix: Option<&str>,
        metrics: &[Metric<R, V>],
        rows: impl Iterator<Item = (&'r str, &'r R)> + Clone,
    ) {
        let prefix = prefix.unwrap_or(self.prefix);
        for (name, help, value) in metrics {
            let kind = match name.ends_with("_total") {
                true => Kind::Counter,
                false => Kind::Gauge,
            };
            self.raw_family(&format!("{prefix}{name}"), kind, help);
            for (labels, row) in rows.clone() {
                self.sample(labels, value(row));
            }
        }
    }

    /// What somebody else wrote.
    pub fn append(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Text in memory takes everything.
        if self.out.write_fmt(arguments).is_err() {
            tracing::error!("metrics cannot be written");
        }
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.out
    }
}

/// `a="x",b="y"`, escaped.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for one in value.chars() {
            match one {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn labels_are_escaped_and_families_have_their_help_and_type_once() {
        let mut text = Text::new("rabbitmq_");
        text.family("queue_messages", Kind::Gauge, "Messages");
        text.sample(&labels(&[("vhost", "/"), ("queue", "a\"b\\c\nd")]), 3);
        text.single("up", Kind::Untyped, "Up", 0.5);
        let table: [Metric<u64, u64>; 2] = [("a_total", "A", |n| *n), ("b", "B", |n| *n + 1)];
        text.families(Some("own_"), &table, [("x=\"1\"", &7)].into_iter());
        assert_eq!(
            text.finish(),
            "# HELP rabbitmq_queue_messages Messages\n# TYPE rabbitmq_queue_messages gauge\n\
             rabbitmq_queue_messages{vhost=\"/\",queue=\"a\\\"b\\\\c\\nd\"} 3\n\
             # HELP rabbitmq_up Up\n# TYPE rabbitmq_up untyped\nrabbitmq_up 0.5\n\
             # HELP own_a_total A\n# TYPE own_a_total counter\nown_a_total{x=\"1\"} 7\n\
             # HELP own_b B\n# TYPE own_b gauge\nown_b{x=\"1\"} 8\n"
        );
    }
}
