//! `amqp://user:password@host:port/vhost?heartbeat=…`: where an end of a shovel is.
//!
//! As RabbitMQ's Erlang client reads it: without a host it is the cluster itself. Not here: opening files it names.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::broker::tls::TlsClientOptions;

/// The port without TLS, and with it.
const PORTS: [u16; 2] = [5672, 5671];
/// Where no vhost is named.
const VHOST: &str = "/";

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The address as it may be shown: no credentials, no query.
    pub shown: String,
    /// Host and port; `None`: this cluster.
    pub host: Option<(String, u16)>,
    /// Name and password, if any.
    pub login: Option<(String, String)>,
    /// Its vhost.
    pub vhost: String,
    /// How, with `amqps`.
    pub tls: Option<TlsClientOptions>,
    /// SASL's EXTERNAL.
    pub external: bool,
    /// Seconds; 0: none.
    pub heartbeat: Option<u16>,
    /// Milliseconds.
    pub connection_timeout: Option<u64>,
    /// Channels.
    pub channel_max: Option<u16>,
    /// Bytes.
    pub frame_max: Option<u32>,
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "not UTF-8".to_owned())
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{key} is no number that fits: {value}"))
}

impl Uri {
    /// Reads one.
    ///
    /// # Errors
    /// `"…" not a valid URI: …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = shown(text);
        read(text, shown.clone()).map_err(|why| format!("\"{shown}\" not a valid URI: {why}"))
    }
}

/// The text without credentials and query, whatever else it is.
fn shown(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

fn read(text: &str, shown: String) -> Result<Uri, String> {
    let (scheme, rest) = text.split_once("://").ok_or("no scheme")?;
    let tls = match scheme {
        "amqp" => None,
        "amqps" => Some(TlsClientOptions::default()),
        other => return Err(format!("unexpected URI scheme \"{other}\"")),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, ""),
    };
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (Some((decoded(user)?, decoded(password)?)), place)
        }
        None => (None, authority),
    };
    let vhost = match path {
        "" => VHOST.to_owned(),
        path if path.contains('/') => return Err("more than one segment for the vhost".to_owned()),
        path => decoded(path)?,
    };
    let mut uri = Uri {
        shown,
        host: host(place, PORTS[usize::from(tls.is_some())])?,
        login,
        vhost,
        tls,
        external: false,
        heartbeat: None,
        connection_timeout: None,
        channel_max: None,
        frame_max: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        uri.set(key, decoded(value)?)?;
    }
    Ok(uri)
}

/// `host`, `host:port`, `[address]:port`, or nothing.
fn host(place: &str, default: u16) -> Result<Option<(String, u16)>, String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("unbalanced bracket")?;
            (address.to_owned(), port)
        }
        None => {
            let at = place.find(':').unwrap_or(place.len());
            (decoded(&place[..at])?, &place[at..])
        }
    };
    let port = match port.strip_prefix(':').unwrap_or(port) {
        "" => default,
        digits => number("the port", digits)?,
    };
    match (host.is_empty(), place.is_empty()) {
        (true, false) => Err("a port without a host".to_owned()),
        (true, true) => Ok(None),
        (false, _) => Ok(Some((host, port))),
    }
}

impl Uri {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "heartbeat" => self.heartbeat = Some(number(key, &value)?),
            "connection_timeout" => self.connection_timeout = Some(number(key, &value)?),
            "channel_max" => self.channel_max = Some(number(key, &value)?),
            "frame_max" => self.frame_max = Some(number(key, &value)?),
            "auth_mechanism" => match value.to_ascii_lowercase().as_str() {
                "external" => self.external = true,
                "plain" | "amqplain" => {}
                _ => return Err(format!("unknown auth_mechanism {value}")),
            },
            _ => return self.set_tls(key, value),
        }
        Ok(())
    }

    fn set_tls(&mut self, key: &str, value: String) -> Result<(), String> {
        // RabbitMQ takes them without TLS too, where they mean nothing.
        let mut unused = TlsClientOptions::default();
        let tls = self.tls.as_mut().unwrap_or(&mut unused);
        match key {
            "cacertfile" => tls.authorities = Some(PathBuf::from(value)),
            "certfile" => tls.certificate = Some(PathBuf::from(value)),
            "keyfile" => tls.key = Some(PathBuf::from(value)),
            "password" => tls.password = Some(value),
            "server_name_indication" => {
                tls.server_name = (value != "disable").then_some(value);
            }
            "verify" => match value.as_str() {
                "verify_peer" => tls.verify = true,
                "verify_none" => tls.verify = false,
                _ => return Err(format!("unknown verify {value}")),
            },
            // `depth`, `fail_if_no_peer_cert`, and what RabbitMQ does not know either.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_uri_says_where_and_as_whom() {
        let uri = Uri::parse(
            "amqps://a%20b:p%40ss:w@[::1]:77/v%2Fh?heartbeat=5&verify=verify_peer&cacertfile=/a/b",
        );
        let uri = uri.unwrap();
        assert_eq!(uri.host, Some(("::1".into(), 77)));
        assert_eq!(uri.login, Some(("a b".into(), "p@ss:w".into())));
        assert_eq!(uri.vhost, "v/h");
        assert_eq!(uri.heartbeat, Some(5));
        let tls = uri.tls.unwrap();
        assert!(tls.verify);
        assert_eq!(tls.authorities, Some("/a/b".into()));
        assert_eq!(uri.shown, "amqps://[::1]:77/v%2Fh");
    }

    #[test]
    fn without_a_host_it_is_this_cluster() {
        for (text, vhost, login) in [
            ("amqp://", "/", None),
            ("amqp:///v", "v", None),
            ("amqp:///%2F", "/", None),
            ("amqp://u:p@/v", "v", Some(("u".to_owned(), "p".to_owned()))),
        ] {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(
                (uri.host, &*uri.vhost, uri.login),
                (None, vhost, login),
                "{text}"
            );
        }
    }

    #[test]
    fn ports_and_vhosts_have_defaults_and_what_is_not_known_means_nothing() {
        let port = |text| Uri::parse(text).unwrap().host.unwrap().1;
        assert_eq!(port("amqp://h"), 5672);
        assert_eq!(port("amqps://h"), 5671);
        assert_eq!(port("amqp://h:1/"), 1);
        assert_eq!(Uri::parse("amqp://h").unwrap().vhost, "/");
        assert_eq!(
            Uri::parse("amqp://h?dummy=x&depth=3&verify=verify_none")
                .unwrap()
                .tls,
            None
        );
    }

    #[test]
    fn what_is_no_uri_is_refused_and_never_shows_a_password() {
        for text in [
            "h:p@x",
            "http://u:secret@h",
            "amqp://u:secret@h:99999",
            "amqp://u:secret@:1",
            "amqp://u:secret@h/a/b",
            "amqp://u:secret@h?frame_max=x",
            "amqp://u:secret@h?auth_mechanism=magic",
            "amqp://u:secret@[::1/v",
            "amqp://u:%ff@h",
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert!(error.contains("not a valid URI"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
