//! Definitions in and out.

use std::io::{Read, Write};

use serde_json::Value;

use super::call::{Call, refused};
use super::output::{Failure, Output, exit};
use super::spec::{CTL, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "export_definitions",
        "path?",
        "format=",
        "Writes everything that is set or declared to a file, or with - to standard output",
        export_definitions,
    ),
    spec(
        CTL,
        "import_definitions",
        "path?",
        "format= skip-if-unchanged",
        "Takes definitions from a file, or standard input",
        import_definitions,
    ),
];

/// Largest document taken from standard input, bytes; what the API takes is less.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn check_format(call: &Call) -> Result<(), Failure> {
    match call.maybe("format") {
        None | Some("json" | "JSON") => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "Formatter should be JSON; {other} is not supported"
        ))),
    }
}

fn export_definitions(call: &Call) -> Result<Output, Failure> {
    check_format(call)?;
    let path = call.maybe("path").unwrap_or("-");
    let failed = |error: std::io::Error| Failure::error(exit::SOFTWARE, format!("{path}: {error}"));
    if path == "-" {
        let document = call.get("/api/definitions")?;
        let mut out = std::io::stdout();
        out.write_all(document.to_string().as_bytes())
            .map_err(failed)?;
        return Ok(Output::Nothing);
    }
    call.banner(format!(
        "Exporting definitions in JSON to a file at \"{path}\" ..."
    ));
    let document = call.get("/api/definitions")?;
    std::fs::write(path, document.to_string()).map_err(failed)?;
    Ok(Output::Nothing)
}

fn import_definitions(call: &Call) -> Result<Output, Failure> {
    check_format(call)?;
    let path = call.maybe("path").unwrap_or("-");
    let mut text = String::new();
    let read = match path {
        "-" => {
            call.banner("Importing definitions in JSON from standard input ...");
            std::io::stdin()
                .take(DOCUMENT_BYTES_MAX)
                .read_to_string(&mut text)
                .map(drop)
        }
        path => {
            call.banner(format!(
                "Importing definitions in JSON from a file at \"{path}\" ..."
            ));
            std::fs::read_to_string(path).map(|read| text = read)
        }
    };
    read.map_err(|error| Failure::error(exit::DATA, format!("{path}: {error}")))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::error(
            exit::DATA,
            format!("Failed to deserialise input (format: json): {error}"),
        )
    })?;
    let reply = call.ask("POST", "/api/definitions", Some(&document))?;
    match reply.is_good() {
        true => Ok(Output::Told(
            "Successfully imported definitions.".to_owned(),
            serde_json::json!({"status": "ok"}),
        )),
        false if reply.status == 400 => Err(Failure::error(exit::DATA, reply.reason())),
        false => Err(refused(&reply)),
    }
}
