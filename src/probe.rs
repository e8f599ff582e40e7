//! Whether a node takes clients: what a container's health check asks, from beside it.
//!
//! Need: a check that needs no account, no secret and no second program in the image. Shape: [`probe`] opens each
//! configured AMQP listener, says AMQP's header and wants `connection.start`. It goes no further, so nothing is logged in,
//! and the node logs no line above debug.
//!
//! Limits: [`LIMIT`] for all listeners together; of an answer only its first bytes are read.
//! Not here: whether the node is in a majority. A node that is cut off must not be restarted for it; `cluster status` and the
//! metrics tell.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest that all listeners may take together.
pub const LIMIT: Duration = Duration::from_secs(5);

/// PROXY, version 2: the connection is of whoever opened it.
const PROXY_LOCAL: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Frame type, channel and size, then class and method (AMQP 0-9-1, 4.2.3).
const ANSWER_BYTES: usize = 11;
const METHOD_FRAME: u8 = 1;
/// Class 10, method 10.
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];

/// Why a node takes no clients.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is nothing to ask.
    #[error("no AMQP listener is configured")]
    NoListener,
    /// Nobody is there, or nobody answers in time.
    #[error("{at}: {error}")]
    Unreachable {
        /// Where it was asked.
        at: SocketAddr,
        /// What came instead of an answer.
        error: io::Error,
    },
    /// Somebody is there who does not begin an AMQP connection.
    #[error("{at}: the answer is not connection.start")]
    Stranger {
        /// Where it was asked.
        at: SocketAddr,
    },
}

/// What of a node's configuration says where and how to ask.
#[derive(Clone, Copy, Debug)]
pub struct Doors<'a> {
    /// AMQP listeners.
    pub plain: &'a [SocketAddr],
    /// Those under TLS: only that they take connections is asked.
    pub tls: &'a [SocketAddr],
    /// They expect a PROXY header.
    pub proxy: bool,
}

/// Asks every listener, within [`LIMIT`].
///
/// # Errors
/// The first that does not answer as a broker.
pub fn probe(doors: &Doors<'_>) -> Result<(), ProbeError> {
    if doors.plain.is_empty() && doors.tls.is_empty() {
        return Err(ProbeError::NoListener);
    }
    let until = Instant::now() + LIMIT;
    for listener in doors.plain {
        ask(near(*listener), doors.proxy, until)?;
    }
    for listener in doors.tls {
        let at = near(*listener);
        let opened = left(until).and_then(|left| TcpStream::connect_timeout(&at, left));
        opened.map_err(|error| ProbeError::Unreachable { at, error })?;
    }
    Ok(())
}

/// Where a listener is reached from its own machine: loopback, for one of every interface.
pub fn near(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // It takes IPv4 too, and does so where there is no IPv6.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn ask(at: SocketAddr, proxy: bool, until: Instant) -> Result<(), ProbeError> {
    match answer(at, proxy, until) {
        Ok(answer) if is_start(&answer) => Ok(()),
        Ok(_) => Err(ProbeError::Stranger { at }),
        Err(error) => Err(ProbeError::Unreachable { at, error }),
    }
}

fn answer(at: SocketAddr, proxy: bool, until: Instant) -> io::Result<[u8; ANSWER_BYTES]> {
    let mut stream = TcpStream::connect_timeout(&at, left(until)?)?;
    stream.set_write_timeout(Some(left(until)?))?;
    if proxy {
        stream.write_all(PROXY_LOCAL)?;
    }
    stream.write_all(HEADER)?;
    let mut answer = [0; ANSWER_BYTES];
    let mut filled = 0;
    // The timeout of a socket is one of each read; a byte now and then must not stretch the limit.
    while filled < ANSWER_BYTES {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut answer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late());
    }
    Ok(left)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn is_start(answer: &[u8; ANSWER_BYTES]) -> bool {
    let [kind, channel_high, channel_low, _, _, _, _, method @ ..] = *answer;
    kind == METHOD_FRAME && (channel_high, channel_low) == (0, 0) && method == CONNECTION_START
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A listener that reads the header and answers this to each of `times` clients.
    fn answering(answer: &'static [u8], times: usize) -> (SocketAddr, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let mut header = [0; 8];
                stream.read_exact(&mut header).unwrap();
                assert_eq!(&header, HEADER);
                stream.write_all(answer).unwrap();
            }
        });
        (at, thread)
    }

    fn open(plain: &[SocketAddr]) -> Doors<'_> {
        Doors {
            plain,
            tls: &[],
            proxy: false,
        }
    }

    const START: &[u8] = &[1, 0, 0, 0, 0, 1, 0, 0, 10, 0, 10, 0, 9];

    #[test]
    fn a_listener_that_begins_a_connection_is_well() {
        let (at, thread) = answering(START, 2);
        probe(&open(&[at, at])).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn an_address_of_every_interface_is_asked_on_loopback() {
        let (at, thread) = answering(START, 1);
        probe(&open(&[SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            at.port(),
        )]))
        .unwrap();
        thread.join().unwrap();
        assert_eq!(
            near("[::]:1".parse().unwrap()),
            "127.0.0.1:1".parse().unwrap()
        );
        let named = "10.1.2.3:4".parse().unwrap();
        assert_eq!(near(named), named);
    }

    #[test]
    fn a_door_behind_a_balancer_hears_a_proxy_header_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; PROXY_LOCAL.len() + HEADER.len()];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(START).unwrap();
            heard
        });
        let plain = [at];
        let doors = Doors {
            proxy: true,
            ..open(&plain)
        };
        probe(&doors).unwrap();
        let heard = thread.join().unwrap();
        assert_eq!(&heard[..PROXY_LOCAL.len()], PROXY_LOCAL);
    }

    #[test]
    fn another_protocol_and_a_half_answer_are_not_well() {
        let (at, thread) = answering(b"AMQP\x00\x00\x09\x01....", 1);
        assert!(matches!(
            probe(&open(&[at])),
            Err(ProbeError::Stranger { .. })
        ));
        thread.join().unwrap();
        let (at, thread) = answering(&START[..9], 1);
        assert!(matches!(
            probe(&open(&[at])),
            Err(ProbeError::Unreachable { .. })
        ));
        thread.join().unwrap();
    }

    #[test]
    fn nobody_and_no_listener_are_not_well() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = gone.local_addr().unwrap();
        drop(gone);
        assert!(matches!(
            probe(&open(&[at])),
            Err(ProbeError::Unreachable { .. })
        ));
        assert!(matches!(probe(&open(&[])), Err(ProbeError::NoListener)));
    }

    #[test]
    fn time_is_over_when_it_is_over() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = silent.local_addr().unwrap();
        let error = ask(at, false, Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        let error = ask(at, false, Instant::now()).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }
}
