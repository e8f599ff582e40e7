//! One AMQP connection that says exactly what it is told to say.
//!
//! Need: a client that refuses nothing, keeps no order of its own and hides no answer.
//! Shape: [`Client`] writes; a thread reads, puts contents together and hands over what came, in order.
//! Limits: no heartbeats (the tuning turns them off), no TLS.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::method::{Method, Properties};
use super::value::{Arg, Value};

/// What came from the broker.
pub enum Incoming {
    /// A method and, when it carries one, its content.
    Method(u16, Method, Option<(Properties, Vec<u8>)>),
    /// The socket ended, or what came is no AMQP: why.
    End(String),
}

/// Where a broker listens, who may come in, and to which virtual host.
#[derive(Clone, Debug)]
pub struct Address {
    /// `host:port`
    pub socket: String,
    /// User, who is an administrator.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The virtual host.
    pub vhost: String,
}

/// An open connection.
pub struct Client {
    stream: TcpStream,
    incoming: Receiver<Incoming>,
    frame_max: usize,
}

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);

impl Client {
    /// Connects and opens the virtual host.
    ///
    /// # Errors
    /// When the broker does not let the client in; with its words when it gave any.
    pub fn open(address: &Address) -> Result<Self, String> {
        let mut stream = TcpStream::connect(&address.socket).map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        stream
            .write_all(b"AMQP\x00\x00\x09\x01")
            .map_err(|error| error.to_string())?;
        let reading = stream.try_clone().map_err(|error| error.to_string())?;
        let (give, incoming) = channel();
        std::thread::spawn(move || {
            let mut reading = std::io::BufReader::new(reading);
            let mut open: BTreeMap<u16, Content> = BTreeMap::new();
            loop {
                let next =
                    next(&mut reading, &mut open).unwrap_or_else(|why| Some(Incoming::End(why)));
                let ended = matches!(next, Some(Incoming::End(_)));
                if next.is_some_and(|next| give.send(next).is_err()) || ended {
                    break;
                }
            }
        });
        let mut client = Self {
            stream,
            incoming,
            frame_max: 0,
        };
        client.shake_hands(address)?;
        Ok(client)
    }

    fn shake_hands(&mut self, address: &Address) -> Result<(), String> {
        self.expect("connection.start")?;
        let yes = |name: &str| (name.to_owned(), Value::Bool(true));
        let capabilities = vec![
            yes("consumer_cancel_notify"),
            yes("connection.blocked"),
            yes("authentication_failure_close"),
        ];
        let start = Method::new("connection.start-ok")
            .table(
                "properties",
                vec![("capabilities".into(), Value::Table(capabilities))],
            )
            .text("mechanism", "PLAIN")
            .text(
                "response",
                &format!("\0{}\0{}", address.user, address.password),
            )
            .text("locale", "en_US");
        self.send(0, &start)?;
        let tune = self.expect("connection.tune")?;
        let frame_max = tune.num_of("frame-max");
        self.frame_max = usize::try_from(frame_max).expect("32 bits");
        let tuned = Method::new("connection.tune-ok")
            .num("channel-max", tune.num_of("channel-max"))
            .num("frame-max", frame_max);
        self.send(0, &tuned)?;
        self.send(
            0,
            &Method::new("connection.open").text("vhost", &address.vhost),
        )?;
        self.expect("connection.open-ok").map(drop)
    }

    fn expect(&self, name: &str) -> Result<Method, String> {
        match self.receive(HANDSHAKE_WITHIN) {
            Some(Incoming::Method(0, method, _)) if method.name() == name => Ok(method),
            Some(Incoming::Method(_, method, _)) => Err(format!("{name} awaited, got {method}")),
            Some(Incoming::End(why)) => Err(format!("{name} awaited: {why}")),
            None => Err(format!("{name} did not come")),
        }
    }

    /// The next thing that came, or `None` when nothing comes for so long.
    #[must_use]
    pub fn receive(&self, patience: Duration) -> Option<Incoming> {
        match self.incoming.recv_timeout(patience) {
            Ok(incoming) => Some(incoming),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Incoming::End("ended before".into())),
        }
    }

    /// Sends a method.
    ///
    /// # Errors
    /// When the socket takes no more.
    pub fn send(&mut self, channel: u16, method: &Method) -> Result<(), String> {
        let mut out = Vec::new();
        frame(1, channel, &method.payload(), &mut out);
        self.raw(&out)
    }

    /// Sends a method with a content, its body cut to the frames that were agreed on.
    ///
    /// # Errors
    /// When the socket takes no more.
    pub fn publish(
        &mut self,
        channel: u16,
        method: &Method,
        properties: &Properties,
        body: &[u8],
    ) -> Result<(), String> {
        let mut out = Vec::new();
        frame(1, channel, &method.payload(), &mut out);
        frame(2, channel, &properties.payload(body.len() as u64), &mut out);
        for part in body.chunks(self.frame_max - 8) {
            frame(3, channel, part, &mut out);
        }
        self.raw(&out)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket takes no more.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream
            .write_all(bytes)
            .map_err(|error| error.to_string())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to shut.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Appends a frame.
///
/// # Panics
/// When the payload is longer than a frame can say.
pub fn frame(kind: u8, channel: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend(
        u32::try_from(payload.len())
            .expect("a short frame")
            .to_be_bytes(),
    );
    out.extend(payload);
    out.push(0xCE);
}

struct Content {
    method: Method,
    properties: Option<(Properties, u64)>,
    body: Vec<u8>,
}

fn next(
    from: &mut impl Read,
    open: &mut BTreeMap<u16, Content>,
) -> Result<Option<Incoming>, String> {
    let mut head = [0; 7];
    from.read_exact(&mut head).map_err(|_| "socket ended")?;
    if &head[..4] == b"AMQP" {
        return Err("a protocol header instead of a frame".into());
    }
    let channel = u16::from_be_bytes([head[1], head[2]]);
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; usize::try_from(size).expect("32 bits") + 1];
    from.read_exact(&mut payload)
        .map_err(|_| "socket ended in a frame")?;
    if payload.pop() != Some(0xCE) {
        return Err("a frame without its end".into());
    }
    let done = match head[0] {
        1 => {
            let method = Method::read(&payload)?;
            let carries = ["basic.deliver", "basic.get-ok", "basic.return"];
            if !carries.contains(&method.name()) {
                return Ok(Some(Incoming::Method(channel, method, None)));
            }
            let content = Content {
                method,
                properties: None,
                body: Vec::new(),
            };
            if open.insert(channel, content).is_some() {
                return Err("a method inside a content".into());
            }
            false
        }
        2 => {
            let content = open.get_mut(&channel).ok_or("a header without a method")?;
            content.properties = Some(Properties::read(&payload)?);
            complete(content)?
        }
        3 => {
            let content = open.get_mut(&channel).ok_or("a body without a method")?;
            content.body.extend(payload);
            complete(content)?
        }
        8 => false,
        other => return Err(format!("a frame of type {other}")),
    };
    if !done {
        return Ok(None);
    }
    let Some(content) = open.remove(&channel) else {
        return Ok(None);
    };
    let properties = content.properties.map(|(properties, _)| properties);
    Ok(Some(Incoming::Method(
        channel,
        content.method,
        Some((properties.unwrap_or_default(), content.body)),
    )))
}

fn complete(content: &Content) -> Result<bool, String> {
    let Some((_, size)) = content.properties else {
        return Err("a body before its header".into());
    };
    match (content.body.len() as u64).cmp(&size) {
        std::cmp::Ordering::Less => Ok(false),
        std::cmp::Ordering::Equal => Ok(true),
        std::cmp::Ordering::Greater => Err("a body longer than it said".into()),
    }
}

/// Headers by name, the first of each.
pub fn sort_headers(properties: &mut Properties) {
    if let Some(headers) = properties.headers_mut() {
        headers.sort_by(|(left, _), (right, _)| left.cmp(right));
        headers.dedup_by(|(left, _), (right, _)| left == right);
    }
    properties
        .0
        .retain(|(_, arg)| !matches!(arg, Arg::Table(table) if table.is_empty()));
}
