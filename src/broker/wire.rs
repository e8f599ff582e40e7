//! A client's socket, plain or under TLS, behind one face without waiting: read what is there, write what fits.
//!
//! rustls is driven here as the machine without I/O that it is, so a connection's loop is the same for both and the plain
//! path costs nothing. Invariants: `WouldBlock` means that the socket's readiness was used up, so whoever waits for it is
//! woken; plaintext that rustls holds counts as readable. Bounds: rustls holds 64 KiB of output and a record of input.
//! Not here: the handshake, which is over before a [`Wire`] exists.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use super::tls::{NameFrom, PeerCertificate};

/// See the module's head.
pub(super) struct Wire {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
}

struct Tls {
    machine: ServerConnection,
    /// Plaintext may lie in the machine.
    held: bool,
}

/// What is shown of a connection's TLS.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsView {
    /// `tlsv1.3`.
    pub version: &'static str,
    /// The suite's parts, as RabbitMQ shows them: key exchange, cipher, hash.
    pub suite: [String; 3],
    /// The client's certificate, if it showed one.
    pub peer: Option<PeerCertificate>,
}

/// The socket as rustls sees it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }

    /// After the handshake.
    pub(super) fn tls(stream: TcpStream, machine: ServerConnection) -> Self {
        let held = true;
        Self {
            stream,
            tls: Some(Box::new(Tls { machine, held })),
        }
    }

    /// What is shown of its TLS; `None` if it has none.
    pub(super) fn view(&self, from: NameFrom) -> Option<Arc<TlsView>> {
        let machine = &self.tls.as_ref()?.machine;
        let version = match machine.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "tlsv1.2",
            _ => "tlsv1.3",
        };
        let suite = machine.negotiated_cipher_suite();
        let suite = suite.map(|suite| format!("{:?}", suite.suite()));
        let peer = machine.peer_certificates();
        let peer = peer.and_then(|chain| PeerCertificate::new(chain.first()?, from));
        Some(Arc::new(TlsView {
            version,
            suite: parts(&suite.unwrap_or_default()),
            peer,
        }))
    }

    /// Appends what has come, at least one byte; about `want` at most. 0 is the end.
    pub(super) fn read(&mut self, into: &mut BytesMut, want: usize) -> io::Result<usize> {
        into.reserve(want);
        match &mut self.tls {
            None => self.stream.try_read_buf(into),
            Some(tls) => tls.read(&self.stream, into, want),
        }
    }

    /// Takes at least one byte to send.
    pub(super) fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.try_write(from),
            Some(tls) => tls.write(&self.stream, from),
        }
    }

    /// Whether something that was taken waits for the socket.
    pub(super) fn owes(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.machine.wants_write())
    }

    /// Sends what was taken, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => tls.flush(&self.stream),
        }
    }

    /// Says good-bye as far as that goes without waiting.
    pub(super) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.machine.send_close_notify();
            // The client may be gone.
            drop(tls.flush(&self.stream));
        }
    }

    pub(super) async fn ready(&self, interest: Option<Interest>) -> io::Result<Ready> {
        let Some(interest) = interest else {
            return std::future::pending().await;
        };
        if interest.is_readable() && self.tls.as_ref().is_some_and(|tls| tls.held) {
            return Ok(Ready::READABLE);
        }
        self.stream.ready(interest).await
    }

    /// Whether bytes have come that nobody has read.
    pub(super) fn unread(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let peeked = self
            .stream
            .poll_peek(&mut context, &mut ReadBuf::new(&mut byte));
        matches!(peeked, Poll::Ready(Ok(count)) if count > 0)
    }
}

impl Tls {
    fn read(&mut self, stream: &TcpStream, into: &mut BytesMut, want: usize) -> io::Result<usize> {
        let before = into.len();
        loop {
            let end = self.drain(into, before + want)?;
            let got = into.len() - before;
            if end || got >= want {
                return Ok(got);
            }
            match self.machine.read_tls(&mut Socket(stream)) {
                // The socket's end without a good-bye counts as one: AMQP has its own.
                Ok(0) => return Ok(got),
                Ok(_) => self.process(stream)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && got > 0 => {
                    return Ok(got);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn process(&mut self, stream: &TcpStream) -> io::Result<()> {
        self.held = true;
        if let Err(error) = self.machine.process_new_packets() {
            // The alert; whether it arrives matters to nobody here.
            drop(self.flush(stream));
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    /// Takes plaintext until there is none or `into` is `full` long; whether the client has said good-bye.
    fn drain(&mut self, into: &mut BytesMut, full: usize) -> io::Result<bool> {
        const PIECE: usize = 4096;
        while self.held && into.len() < full {
            let at = into.len();
            into.resize(at + PIECE, 0);
            let read = self.machine.reader().read(&mut into[at..]);
            into.truncate(at + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.held = false,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn write(&mut self, stream: &TcpStream, from: &[u8]) -> io::Result<usize> {
        self.flush(stream)?;
        match self.machine.writer().write(from)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => {
                self.flush(stream)?;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.machine.wants_write() {
            match self.machine.write_tls(&mut Socket(stream)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// `TLS13_AES_256_GCM_SHA384` as key exchange, cipher and hash.
fn parts(suite: &str) -> [String; 3] {
    let (exchange, rest) = match suite.split_once("_WITH_") {
        Some((exchange, rest)) => (exchange.trim_start_matches("TLS_"), rest),
        None => ("any", suite.trim_start_matches("TLS13_")),
    };
    let (cipher, hash) = rest.rsplit_once('_').unwrap_or((rest, ""));
    [exchange, cipher, hash].map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_shown_by_its_parts() {
        let cases = [
            ("TLS13_AES_256_GCM_SHA384", ["any", "aes_256_gcm", "sha384"]),
            (
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                ["ecdhe_rsa", "aes_128_gcm", "sha256"],
            ),
        ];
        for (suite, want) in cases {
            assert_eq!(parts(suite), want);
        }
    }
}
