//! What a command says: RabbitMQ's formats, down to the byte where scripts read them.
//!
//! | format | a list | anything else |
//! | --- | --- | --- |
//! | table (the default) | a line of column names, then lines of fields, apart by tabs | its text |
//! | csv | quoted fields, apart by commas | the same |
//! | json | `[`, rows with a comma before each but the first, `]` | one value |
//! | json_stream | one row a line, an empty line after each | the same |
//! | pretty_table | a drawn table | the same |
//! | erlang | Erlang terms | the same |

use serde_json::Value;

use super::erlang;

/// The program's end when a command fails; RabbitMQ uses sysexits.
pub mod exit {
    /// Called in a wrong way.
    pub const USAGE: u8 = 64;
    /// What was given cannot be: no such vhost, a wrong password.
    pub const DATA: u8 = 65;
    /// No such user.
    pub const NO_USER: u8 = 67;
    /// The node does not answer, or a check failed.
    pub const UNAVAILABLE: u8 = 69;
    /// It was refused.
    pub const SOFTWARE: u8 = 70;
    /// No answer in time.
    pub const TEMPORARY: u8 = 75;
    /// The configuration cannot be used.
    pub const CONFIG: u8 = 78;
}

/// Why a command has no good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// For standard error; each line as it is to stand there.
    pub text: String,
    /// The same for a program, if there is something it can use.
    pub json: Option<Value>,
}

impl Failure {
    /// With this text as it is.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            json: None,
        }
    }

    /// With RabbitMQ's `Error:` in a line of its own.
    pub fn error(code: u8, text: impl AsRef<str>) -> Self {
        Self::new(code, format!("Error:\n{}", text.as_ref()))
    }

    /// Wrong arguments.
    pub fn usage(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        Self::new(exit::USAGE, format!("Error (argument validation): {text}"))
    }
}

/// A list of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Fields, as many as columns.
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    /// Rows of objects: these columns of each. What is missing or null is an empty text.
    pub fn of(columns: &[&str], objects: &[Value]) -> Self {
        let row = |object: &Value| {
            let field = |column: &&str| match object.get(*column) {
                None | Some(Value::Null) => Value::from(""),
                Some(value) => value.clone(),
            };
            columns.iter().map(field).collect()
        };
        Self {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            rows: objects.iter().map(row).collect(),
        }
    }
}

/// What a command has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Nothing: it was done.
    Nothing,
    /// Text, said in every case.
    Text(String),
    /// Text that `--silent` and `--quiet` leave out; programs get the second.
    Told(String, Value),
    /// A list.
    Rows(Rows),
    /// Text for people, a value for programs.
    Both(String, Value),
    /// A value whose text is its JSON.
    Json(Value),
}

/// How it is to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The command's own.
    #[default]
    Table,
    /// Commas.
    Csv,
    /// One value.
    Json,
    /// One value per row.
    JsonStream,
    /// Drawn.
    Pretty,
    /// Terms.
    Erlang,
}

impl Format {
    /// By its name; what is not known is the command's own, as in RabbitMQ.
    pub fn named(name: &str) -> Self {
        match name {
            "csv" => Self::Csv,
            "json" => Self::Json,
            "json_stream" => Self::JsonStream,
            "pretty_table" => Self::Pretty,
            "erlang" => Self::Erlang,
            _ => Self::Table,
        }
    }

    /// A program reads it: nothing may come before.
    pub const fn is_machine(self) -> bool {
        matches!(self, Self::Json | Self::Csv | Self::JsonStream)
    }
}

/// How much is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// The format.
    pub format: Format,
    /// Column names stand above tables.
    pub headers: bool,
    /// No word of success.
    pub silent: bool,
}

fn line(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What goes to standard output.
pub fn shown(output: &Output, manner: Manner) -> String {
    match (output, manner.format) {
        (Output::Nothing, _) => String::new(),
        (Output::Rows(rows), format) => list(rows, format, manner.headers),
        (Output::Told(_, value), Format::Json | Format::JsonStream)
        | (Output::Both(_, value) | Output::Json(value), Format::Json | Format::JsonStream) => {
            line(value.to_string())
        }
        (Output::Text(text), Format::Json | Format::JsonStream) => {
            line(serde_json::json!({"message": text}).to_string())
        }
        (Output::Told(..), _) if manner.silent => String::new(),
        (Output::Both(_, value), Format::Erlang) => line(format!("{}.", erlang::term(value))),
        (Output::Json(value), _) => line(value.to_string()),
        (Output::Text(text) | Output::Told(text, _) | Output::Both(text, _), _) => {
            line(text.clone())
        }
    }
}

fn list(rows: &Rows, format: Format, headers: bool) -> String {
    match format {
        Format::Table => table(rows, headers),
        Format::Csv => csv(rows),
        Format::Json => json(rows),
        Format::JsonStream => {
            let rows = rows.rows.iter().map(|row| object(&rows.columns, row));
            rows.fold(String::new(), |out, row| out + &row + "\n\n")
        }
        Format::Pretty => pretty(rows),
        Format::Erlang => erlang::list(&rows.columns, &rows.rows),
    }
}

fn table(rows: &Rows, headers: bool) -> String {
    let mut out = String::new();
    if headers && !rows.rows.is_empty() {
        out += &line(rows.columns.join("\t"));
    }
    for row in &rows.rows {
        let fields = row.iter().zip(&rows.columns);
        let fields: Vec<String> = fields
            .map(|(value, column)| erlang::field(column, value))
            .collect();
        out += &line(fields.join("\t"));
    }
    out
}

fn csv(rows: &Rows) -> String {
    if rows.rows.is_empty() {
        return String::new();
    }
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let titles: Vec<String> = rows.columns.iter().map(|name| quoted(name)).collect();
    let mut out = line(titles.join(","));
    for row in &rows.rows {
        let fields = row.iter().zip(&rows.columns);
        let fields = fields.map(|(value, column)| match value {
            Value::Number(number) => number.to_string(),
            value => quoted(&erlang::field(column, value)),
        });
        out += &line(fields.collect::<Vec<_>>().join(","));
    }
    out
}

/// An object whose keys are in the order of the columns.
fn object(columns: &[String], row: &[Value]) -> String {
    let fields = columns.iter().zip(row).map(|(name, value)| {
        let name = Value::from(name.as_str());
        match value {
            // An empty table is an empty list there.
            Value::Object(map) if map.is_empty() && erlang::is_table(&name) => format!("{name}:[]"),
            value => format!("{name}:{value}"),
        }
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn json(rows: &Rows) -> String {
    let mut out = "[\n".to_owned();
    for (at, row) in rows.rows.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out += &line(object(&rows.columns, row));
    }
    out + "]\n"
}

fn pretty(rows: &Rows) -> String {
    if rows.rows.is_empty() {
        return String::new();
    }
    let mut grid = vec![rows.columns.clone()];
    for row in &rows.rows {
        let fields = row.iter().zip(&rows.columns);
        grid.push(
            fields
                .map(|(value, column)| erlang::field(column, value))
                .collect(),
        );
    }
    drawn(&grid)
}

/// Rows of a grid with lines around, the first row its title.
pub fn drawn(grid: &[Vec<String>]) -> String {
    let columns = grid.first().map_or(0, Vec::len);
    let width = |at: usize| {
        let fields = grid.iter().filter_map(|row| row.get(at));
        fields.map(|field| field.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rule = |left: char, middle: &str, right: char| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let mut out = rule('┌', "┬", '┐');
    for (at, row) in grid.iter().enumerate() {
        if at > 0 {
            out += &rule('├', "┼", '┤');
        }
        for (field, width) in row.iter().zip(&widths) {
            out += &format!("│ {field:<width$} ");
        }
        out += "│\n";
    }
    out + &rule('└', "┴", '┘')
}
