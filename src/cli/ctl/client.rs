//! Talk with a node over its control socket: HTTP/1.0, one request a connection, so nothing needs a runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leveret::http::control;
use serde_json::Value;

/// Largest answer taken, bytes: a listing of everything there is.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A node's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    until: Option<Instant>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body; null if there is none.
    pub value: Value,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// Nobody serves the socket.
    Nobody(io::Error),
    /// This account may not ask.
    Forbidden,
    /// None came in time.
    Late,
    /// It makes no sense.
    Strange,
}

impl Reply {
    /// 2xx.
    pub const fn is_good(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// What it says of itself: the reason of a refusal.
    pub fn reason(&self) -> String {
        match &self.value["reason"] {
            Value::String(text) => text.clone(),
            Value::Null => format!("the node answered {}", self.status),
            other => other.to_string(),
        }
    }
}

impl Client {
    /// The node of this data folder, which is to answer everything within `limit`.
    pub fn new(data_dir: &Path, limit: Option<Duration>) -> Self {
        Self {
            socket: data_dir.join(control::SOCKET),
            until: limit.map(|limit| Instant::now() + limit),
        }
    }

    /// Where it is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether somebody listens there.
    pub fn is_there(&self) -> bool {
        control::connect(&self.socket).is_ok()
    }

    /// Asks.
    ///
    /// # Errors
    /// [`Silence`].
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply, Silence> {
        self.ask_why(method, path, body, None)
    }

    /// Asks and says why.
    ///
    /// # Errors
    /// [`Silence`].
    pub fn ask_why(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        reason: Option<&str>,
    ) -> Result<Reply, Silence> {
        let stream = control::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Silence::Forbidden,
            _ => Silence::Nobody(error),
        })?;
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::Late);
            }
            let set = stream
                .set_read_timeout(Some(left))
                .and_then(|()| stream.set_write_timeout(Some(left)));
            set.map_err(Silence::Nobody)?;
        }
        let mut head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n",
            body.len()
        );
        if let Some(reason) = reason {
            // Nothing that is written there may begin another header.
            let reason = reason.replace(|c: char| c.is_control() || !c.is_ascii(), "?");
            head += &format!("X-Reason: {reason}\r\n");
        }
        head += "\r\n";
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        talk(stream, &request)
    }
}

impl Client {
    /// Copies the body of an answer to `out` as it comes, however long that takes.
    ///
    /// # Errors
    /// [`Silence`]; that `out` takes no more is none.
    pub fn copy(&self, path: &str, out: &mut dyn Write) -> Result<(), Silence> {
        let mut stream = control::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Silence::Forbidden,
            _ => Silence::Nobody(error),
        })?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .map_err(Silence::Nobody)?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        let head = answer.read_line(&mut line).map_err(Silence::Nobody)?;
        if head == 0 || line.split(' ').nth(1) != Some("200") {
            return Err(Silence::Strange);
        }
        while line.trim_end() != "" {
            line.clear();
            answer.read_line(&mut line).map_err(Silence::Nobody)?;
        }
        loop {
            let some = answer.fill_buf().map_err(Silence::Nobody)?;
            let length = some.len();
            if length == 0 || out.write_all(some).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
            answer.consume(length);
        }
    }
}

fn talk(mut stream: UnixStream, request: &[u8]) -> Result<Reply, Silence> {
    let is_late = |error: &io::Error| {
        use io::ErrorKind::{TimedOut, WouldBlock};
        matches!(error.kind(), WouldBlock | TimedOut)
    };
    let written = stream.write_all(request);
    if written.as_ref().is_err_and(is_late) {
        return Err(Silence::Late);
    }
    // A node may answer, and close, before it has read all of a request: its answer counts.
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    match (written.and(read), parsed(&answer)) {
        (Err(error), _) if is_late(&error) => Err(Silence::Late),
        (_, Some(reply)) => Ok(reply),
        (Ok(_), None) => Err(Silence::Strange),
        (Err(error), None) => Err(Silence::Nobody(error)),
    }
}

fn parsed(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end + 4..)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let value = match body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(body).ok()?,
    };
    Some(Reply { status, value })
}

/// A path of these segments below `/api`.
pub fn at(segments: &[&str]) -> String {
    let mut path = "/api".to_owned();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    path.push(char::from(byte));
                }
                other => path += &format!("%{other:02X}"),
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_path() {
        assert_eq!(
            at(&["queues", "/", "a b/ü"]),
            "/api/queues/%2F/a%20b%2F%C3%BC"
        );
    }

    #[test]
    fn an_answer_counts_that_came_before_the_request_was_written() {
        let (client, mut node) = UnixStream::pair().unwrap();
        node.write_all(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap();
        drop(node);
        assert_eq!(talk(client, b"POST / HTTP/1.0").unwrap().status, 200);
        let (client, node) = UnixStream::pair().unwrap();
        drop(node);
        assert!(matches!(talk(client, b"GET /"), Err(Silence::Nobody(_))));
    }

    #[test]
    fn an_answer_is_status_and_body() {
        let reply = parsed(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{\"x\":1}").unwrap();
        assert_eq!((reply.status, &reply.value["x"]), (200, &Value::from(1)));
        assert_eq!(
            parsed(b"HTTP/1.0 204 No Content\r\n\r\n").unwrap().status,
            204
        );
        assert_eq!(parsed(b"HTTP/1.0 200 OK\r\n\r\n{"), None);
        assert_eq!(parsed(b"nothing"), None);
    }
}
