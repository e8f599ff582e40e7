//! Values for configuration files that are encrypted with a passphrase. No node is asked.

use leveret::config::secret::{Passphrase, Term};
use serde_json::json;

use super::call::Call;
use super::output::{Failure, Output, exit};
use super::spec::{CTL, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "encode",
        "value passphrase",
        "cipher= hash= iterations=",
        "Encrypts an Erlang term for RabbitMQ's advanced.config",
        encode,
    ),
    spec(
        CTL,
        "decode",
        "value passphrase",
        "cipher= hash= iterations=",
        "Decrypts what encode says",
        decode,
    ),
    spec(
        CTL,
        "encrypt_conf_value",
        "value passphrase",
        "cipher= hash= iterations=",
        "Encrypts a value of rabbitmq.conf",
        encrypt,
    ),
    spec(
        CTL,
        "decrypt_conf_value",
        "value passphrase",
        "cipher= hash= iterations=",
        "Decrypts a value of rabbitmq.conf",
        decrypt,
    ),
    spec(
        CTL,
        "list_ciphers",
        "",
        "",
        "Lists ciphers of encrypted configuration values",
        list_ciphers,
    ),
    spec(
        CTL,
        "list_hashes",
        "",
        "",
        "Lists hashes of encrypted configuration values",
        list_hashes,
    ),
];

fn passphrase(call: &Call) -> Result<Passphrase, Failure> {
    let mut passphrase = Passphrase::new(call.arg("passphrase"));
    passphrase.long = match call.maybe("cipher").unwrap_or("aes_128_cbc") {
        "aes_128_cbc" => false,
        "aes_256_cbc" => true,
        _ => {
            let text = "The requested cipher is not supported: aes_128_cbc, aes_256_cbc";
            return Err(Failure::usage(text));
        }
    };
    passphrase.sha512 = match call.maybe("hash").unwrap_or("sha256") {
        "sha256" => false,
        "sha512" => true,
        _ => {
            let text = "The requested hash is not supported: sha256, sha512";
            return Err(Failure::usage(text));
        }
    };
    if let Some(given) = call.maybe("iterations") {
        let number = given.parse().ok().filter(|number| *number > 0);
        let wrong = || Failure::usage("The requested number of iterations is incorrect");
        passphrase.iterations = number.ok_or_else(wrong)?;
    }
    Ok(passphrase)
}

const CIPHERS: [&str; 2] = ["aes_128_cbc", "aes_256_cbc"];
const HASHES: [&str; 2] = ["sha256", "sha512"];

fn listed(names: &[&str]) -> Output {
    Output::Both(format!("[{}]", names.join(", ")), json!(names))
}

fn list_ciphers(call: &Call) -> Result<Output, Failure> {
    call.banner("Listing supported ciphers ...");
    Ok(listed(&CIPHERS))
}

fn list_hashes(call: &Call) -> Result<Output, Failure> {
    call.banner("Listing supported hash algorithms ...");
    Ok(listed(&HASHES))
}

/// A term as it is written in Erlang.
fn term(text: &str) -> Option<Term> {
    let quoted = |text: &str| -> Option<Vec<u8>> {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        (!inner.contains(['"', '\\'])).then(|| inner.as_bytes().to_vec())
    };
    if let Some(inner) = text
        .strip_prefix("<<")
        .and_then(|text| text.strip_suffix(">>"))
    {
        return quoted(inner).map(Term::Binary);
    }
    if let Ok(number) = text.parse() {
        return Some(Term::Integer(number));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '@';
    let atom = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(plain);
    match atom {
        true => Some(Term::Atom(text.to_owned())),
        false => quoted(text).map(Term::Text),
    }
}

fn shown(term: &Term) -> Option<String> {
    let plain = term.plain()?;
    Some(match term {
        Term::Binary(_) => format!("<<\"{plain}\">>"),
        Term::Text(_) => format!("\"{plain}\""),
        Term::Atom(_) | Term::Integer(_) => plain,
    })
}

fn failed() -> Failure {
    Failure::error(
        exit::UNAVAILABLE,
        "Failed to decrypt the value. Things to check: is the passphrase correct? Are the cipher and hash algorithms the same \
         as those used for encryption?",
    )
}

fn encode(call: &Call) -> Result<Output, Failure> {
    call.banner("Encrypting value to be used in advanced.config...");
    let term = term(call.arg("value"));
    let term = term.ok_or_else(|| {
        Failure::new(
            exit::DATA,
            "Error:\nthe value is no term that is known: a binary, a string, an atom or a number",
        )
    })?;
    let sealed = passphrase(call)?.encrypt(&term, rand::random());
    Ok(Output::Text(format!("{{encrypted,<<\"{sealed}\">>}}")))
}

fn decode(call: &Call) -> Result<Output, Failure> {
    call.banner("Decrypting an advanced.config (Erlang term) value...");
    let value = call.arg("value");
    let inner = value
        .strip_prefix("{encrypted,")
        .and_then(|rest| rest.strip_suffix('}'));
    let sealed = inner.unwrap_or(value).trim();
    let sealed = sealed
        .trim_start_matches("<<")
        .trim_end_matches(">>")
        .trim_matches('"');
    let term = passphrase(call)?.decrypt(sealed);
    let text = term.and_then(|term| shown(&term)).ok_or_else(failed)?;
    Ok(Output::Text(text))
}

fn encrypt(call: &Call) -> Result<Output, Failure> {
    call.banner("Encrypting value to be used in rabbitmq.conf...");
    let term = Term::Binary(call.arg("value").into());
    let sealed = passphrase(call)?.encrypt(&term, rand::random());
    Ok(Output::Text(format!("encrypted:{sealed}")))
}

fn decrypt(call: &Call) -> Result<Output, Failure> {
    call.banner("Decrypting a rabbitmq.conf string value...");
    let value = call.arg("value");
    let sealed = value.strip_prefix("encrypted:").unwrap_or(value);
    let term = passphrase(call)?.decrypt(sealed);
    let text = term.and_then(|term| term.plain()).ok_or_else(failed)?;
    Ok(Output::Text(text))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_term_is_shown_as_it_was_written() {
        for text in ["<<\"a b\">>", "\"a b\"", "infinity", "-7", "<<\"\">>"] {
            assert_eq!(shown(&term(text).unwrap()).as_deref(), Some(text));
        }
        for text in ["", "Variable", "\"open", "{a,b}", "<<a>>", "\"a\\n\""] {
            assert_eq!(term(text), None, "{text}");
        }
    }
}
