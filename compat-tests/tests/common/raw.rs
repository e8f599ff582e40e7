//! A client that writes its own bytes: it goes on sending when a polite client would wait.
//! AMQP 0-9-1 §2.3 frames; class and method numbers are those of the specification.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::PATIENCE;

pub const BLOCKED: (u16, u16) = (10, 60);
pub const UNBLOCKED: (u16, u16) = (10, 61);
pub const ACK: (u16, u16) = (60, 80);

/// One connection with channel 1 open, in confirm mode.
pub struct Raw {
    socket: TcpStream,
    input: Vec<u8>,
}

/// A method: its class and number, and its arguments.
#[derive(Debug)]
pub struct Method {
    pub id: (u16, u16),
    pub arguments: Vec<u8>,
}

fn short(text: &str) -> Vec<u8> {
    let mut out = vec![u8::try_from(text.len()).unwrap()];
    out.extend(text.as_bytes());
    out
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend(long(payload));
    out.push(0xCE);
    out
}

fn method(channel: u16, (class, number): (u16, u16), arguments: &[&[u8]]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(number.to_be_bytes());
    payload.extend(arguments.concat());
    frame(1, channel, &payload)
}

impl Raw {
    /// Connects as guest. `can_be_blocked`: whether it announces that it understands connection.blocked.
    pub fn connect(port: u16, can_be_blocked: bool) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        Self::over(socket, can_be_blocked)
    }

    /// The same over a socket of the test's.
    pub fn over(socket: TcpStream, can_be_blocked: bool) -> Self {
        let mut client = Self {
            socket,
            input: Vec::new(),
        };
        client.send(b"AMQP\x00\x00\x09\x01");
        client.expect((10, 10));
        let mut capabilities = short("connection.blocked");
        capabilities.extend([b't', u8::from(can_be_blocked)]);
        let mut properties = short("capabilities");
        properties.push(b'F');
        properties.extend(long(&capabilities));
        let (mechanism, response) = (short("PLAIN"), long(b"\0guest\0guest"));
        client.send(&method(
            0,
            (10, 11),
            &[&long(&properties), &mechanism, &response, &short("en_US")],
        ));
        let tune = client.expect((10, 30));
        // What was proposed, without a heartbeat.
        let tuned = [&tune.arguments[..6], &[0, 0]].concat();
        client.send(&method(0, (10, 31), &[&tuned]));
        client.send(&method(0, (10, 40), &[&short("/"), &[0, 0]]));
        client.expect((10, 41));
        client.send(&method(1, (20, 10), &[&[0]]));
        client.expect((20, 11));
        client.send(&method(1, (85, 10), &[&[0]]));
        client.expect((85, 11));
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("sent");
    }

    /// Publishes a persistent message to a queue by the default exchange.
    pub fn publish(&mut self, queue: &str, body: &[u8]) {
        let mut out = method(1, (60, 40), &[&[0, 0], &short(""), &short(queue), &[0]]);
        let mut header = 60_u16.to_be_bytes().to_vec();
        header.extend([0, 0]);
        header.extend((body.len() as u64).to_be_bytes());
        // Only delivery-mode, 2.
        header.extend([0x10, 0x00, 2]);
        out.extend(frame(2, 1, &header));
        out.extend(frame(3, 1, body));
        self.send(&out);
    }

    /// The next method, if one comes within `wait`.
    pub fn poll(&mut self, wait: Duration) -> Option<Method> {
        self.socket.set_read_timeout(Some(wait)).expect("a timeout");
        loop {
            if let Some(found) = self.cut() {
                return Some(found);
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the broker closed the connection"),
                Ok(count) => self.input.extend(&buffer[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn cut(&mut self) -> Option<Method> {
        let head: [u8; 7] = *self.input.first_chunk()?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let end = 7 + size + 1;
        if self.input.len() < end {
            return None;
        }
        let whole: Vec<u8> = self.input.drain(..end).collect();
        assert_eq!((whole[0], whole[end - 1]), (1, 0xCE), "a method frame");
        let word = |at: usize| u16::from_be_bytes([whole[at], whole[at + 1]]);
        Some(Method {
            id: (word(7), word(9)),
            arguments: whole[11..end - 1].to_vec(),
        })
    }

    /// The next method, which must be this one.
    pub fn expect(&mut self, id: (u16, u16)) -> Method {
        let found = self.poll(PATIENCE).expect("an answer in time");
        assert_eq!(found.id, id, "{found:?}");
        found
    }

    /// Waits until all messages up to this number are confirmed.
    pub fn confirmed(&mut self, number: u64) {
        let mut seen = 0;
        while seen < number {
            let ack = self.expect(ACK);
            seen = u64::from_be_bytes(*ack.arguments.first_chunk().unwrap());
        }
    }
}
