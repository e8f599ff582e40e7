//! TLS: what can be served, and the certificates that are.

use serde_json::{Value, json};

use super::call::Call;
use super::erlang;
use super::output::{Failure, Output};
use super::spec::{DIAG, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        DIAG,
        "cipher_suites",
        "",
        "format= all",
        "Lists cipher suites of TLS",
        cipher_suites,
    ),
    spec(
        DIAG,
        "tls_versions",
        "",
        "",
        "Lists versions of TLS",
        tls_versions,
    ),
    spec(
        DIAG,
        "certificates",
        "",
        "",
        "Shows the certificates the node serves",
        certificates,
    ),
];

/// By OpenSSL's names; IANA's is a rule away.
const SUITES: [&str; 9] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// `{"cipher", "key_exchange", "mac", "prf"}` of a suite, as Erlang's maps have them.
fn suite(name: &str) -> Value {
    let hash = if name.contains("SHA384") {
        "sha384"
    } else {
        "sha256"
    };
    let cipher = match name {
        _ if name.contains("CHACHA20") => "chacha20_poly1305",
        _ if name.contains("256-GCM") || name.contains("256_GCM") => "aes_256_gcm",
        _ => "aes_128_gcm",
    };
    let exchange = match name {
        _ if name.starts_with("TLS_") => "any",
        _ if name.contains("ECDSA") => "ecdhe_ecdsa",
        _ => "ecdhe_rsa",
    };
    json!({"cipher": cipher, "key_exchange": exchange, "mac": "aead", "prf": hash})
}

fn cipher_suites(call: &Call) -> Result<Output, Failure> {
    let (node, format) = (call.node(), call.maybe("format").unwrap_or("openssl"));
    let (title, lines) = match format {
        "openssl" => ("in the OpenSSL format", SUITES.map(str::to_owned)),
        "erlang" | "map" => (
            "in the Erlang term format",
            SUITES.map(|name| erlang::term(&suite(name))),
        ),
        _ => {
            let text = "Format should be either openssl, erlang or map";
            return Err(Failure::usage(text));
        }
    };
    call.banner(format!(
        "Listing available cipher suites {title} on node {node} ..."
    ));
    call.check_node()?;
    call.about()?;
    let suites = match format {
        "openssl" => json!(SUITES),
        _ => json!(SUITES.map(suite)),
    };
    let value = json!({"result": "ok", "cipher_suites": suites});
    Ok(Output::Both(lines.join("\n"), value))
}

fn tls_versions(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Listing all TLS versions supported by the runtime on node {} ...",
        call.node()
    ));
    call.check_node()?;
    call.about()?;
    let versions = ["tlsv1.3", "tlsv1.2"];
    Ok(Output::Both(
        versions.join("\n"),
        json!({"result": "ok", "versions": versions}),
    ))
}

fn certificates(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!("Certificates of node {node} ..."));
    call.check_node()?;
    let all = call.get("/control/certificates")?;
    let rows = all.as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        let text = format!("Node {node} has no TLS-enabled listeners");
        return Ok(Output::Both(text, json!({"result": "ok", "listeners": []})));
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    for row in &rows {
        out += &format!(
            "Interface: {}, port: {}, protocol: {}\n",
            text(row, "interface"),
            row["port"],
            text(row, "protocol")
        );
        for (file, held) in [("certfile", "certificates"), ("cacertfile", "authorities")] {
            let Some(held) = row[held].as_array() else {
                continue;
            };
            out += &format!(" {file}: {}\n", text(row, file));
            for one in held {
                out += &format!(
                    "  subject: {}, issuer: {}, serial number: {}, validity: {}\n",
                    text(one, "subject"),
                    text(one, "issuer"),
                    text(one, "serial"),
                    text(one, "validity")
                );
            }
        }
    }
    Ok(Output::Both(
        out,
        json!({"result": "ok", "listeners": rows}),
    ))
}
