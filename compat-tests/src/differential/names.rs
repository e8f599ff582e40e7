//! Names that differ from run to run, as names that do not.
//!
//! Need: a queue name the broker makes up, or a consumer tag, differs at each broker; what it stands for does not.
//! Shape: what goes out has `~` and `<…>` replaced by what they stand for here; what comes in has it put back.

use super::method::{Method, Properties};
use super::value::{Arg, Table, Value};

const MADE: &[(&str, char)] = &[
    ("amq.gen-", 'g'),
    ("amq.ctag-", 't'),
    ("amq.rabbitmq.reply-to.", 'r'),
];

/// The names of one run at one broker.
pub struct Names {
    prefix: String,
    made: Vec<(String, String)>,
}

impl Names {
    /// No names yet; `~` stands for `prefix`.
    #[must_use]
    pub const fn new(prefix: String) -> Self {
        Self {
            prefix,
            made: Vec::new(),
        }
    }

    /// A text of a program as it is sent.
    #[must_use]
    pub fn sent(&self, text: &str) -> String {
        let mut text = text.replace('~', &self.prefix);
        for (symbol, actual) in &self.made {
            text = text.replace(symbol, actual);
        }
        text
    }

    /// A text from the broker as it is shown and compared.
    pub fn shown(&mut self, text: &str) -> String {
        for (start, letter) in MADE {
            for (place, _) in text.match_indices(start) {
                let part =
                    |letter: char| letter.is_ascii_alphanumeric() || "-_=.+/".contains(letter);
                let rest = &text[place..];
                let actual = &rest[..rest.find(|letter| !part(letter)).unwrap_or(rest.len())];
                self.learn(actual, *letter);
            }
        }
        let mut text = text.replace(&self.prefix, "~");
        for (symbol, actual) in &self.made {
            text = text.replace(actual.as_str(), symbol);
        }
        text
    }

    fn learn(&mut self, actual: &str, letter: char) {
        if self.made.iter().all(|(_, known)| known != actual) {
            let of_kind = |(symbol, _): &&(String, String)| symbol[1..].starts_with(letter);
            let symbol = format!("<{letter}{}>", self.made.iter().filter(of_kind).count());
            self.made.push((symbol, actual.to_owned()));
        }
    }

    /// A method of a program as it is sent.
    #[must_use]
    pub fn method_sent(&self, method: &Method) -> Method {
        let mut method = method.clone();
        let mut change = |text: &str| self.sent(text);
        method
            .args
            .iter_mut()
            .for_each(|arg| arg_with(arg, &mut change));
        method
    }

    /// Properties of a program as they are sent.
    #[must_use]
    pub fn properties_sent(&self, properties: &Properties) -> Properties {
        let mut properties = properties.clone();
        let mut change = |text: &str| self.sent(text);
        for (_, arg) in &mut properties.0 {
            arg_with(arg, &mut change);
        }
        properties
    }

    /// A method from the broker as it is shown.
    pub fn method_shown(&mut self, method: &mut Method) {
        let mut change = |text: &str| self.shown(text);
        method
            .args
            .iter_mut()
            .for_each(|arg| arg_with(arg, &mut change));
    }

    /// Properties from the broker as they are shown.
    pub fn properties_shown(&mut self, properties: &mut Properties) {
        let mut change = |text: &str| self.shown(text);
        for (_, arg) in &mut properties.0 {
            arg_with(arg, &mut change);
        }
    }
}

fn arg_with(arg: &mut Arg, change: &mut impl FnMut(&str) -> String) {
    match arg {
        Arg::Text(text) => *text = change(text),
        Arg::Table(table) => table_with(table, change),
        Arg::Num(_) | Arg::Bit(_) => {}
    }
}

fn table_with(table: &mut Table, change: &mut impl FnMut(&str) -> String) {
    for (_, value) in table {
        value_with(value, change);
    }
}

fn value_with(value: &mut Value, change: &mut impl FnMut(&str) -> String) {
    match value {
        Value::Text(text) => *text = change(text),
        Value::Table(table) => table_with(table, change),
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| value_with(value, change)),
        _ => {}
    }
}

#[cfg(test)]
mod test {
    use super::Names;

    #[test]
    fn a_name_that_was_made_up_is_shown_by_its_number_and_sent_as_it_is() {
        let mut names = Names::new("P-".into());
        assert_eq!(names.shown("amq.gen-abc"), "<g0>");
        assert_eq!(names.shown("amq.gen-def"), "<g1>");
        assert_eq!(names.shown("no queue 'amq.gen-def'"), "no queue '<g1>'");
        assert_eq!(names.shown("P-q0"), "~q0");
        assert_eq!(names.sent("~q0 <g1>"), "P-q0 amq.gen-def");
    }
}
