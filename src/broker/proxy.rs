//! The PROXY protocol, versions 1 and 2: whom a connection is really from, said by a load balancer before anything else.
//!
//! Need: with `proxy_protocol = true` every connection begins with such a header, and its addresses are those that are
//! shown, limited and logged. Shape: [`step`] looks at what was read and says how much more may be read, so that not one
//! byte of what follows is taken; [`read`] does so from a socket. Invariants: a header is at most [`HEADER_MAX`] bytes; what
//! is malformed is refused, for nothing else may come here. Not here: who may send such headers (a firewall's matter), the
//! extra fields of version 2, which are passed over.
//!
//! ```text
//! 1: PROXY TCP4 203.0.113.7 192.0.2.1 56324 5672\r\n       also TCP6, UNKNOWN
//! 2: 0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A | 2 and command | family | length, 2 bytes | addresses | extra fields
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest header of version 1, line end included.
const LINE_MAX: usize = 107;
/// Longest header taken, bytes.
const HEADER_MAX: usize = 16 + 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// From whom, to where.
    Ends(SocketAddr, SocketAddr),
    /// Nothing: the balancer itself connects (a health check), or by something that has no addresses.
    Itself,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read at most so many bytes more, at least one.
    More(usize),
    /// The header is complete.
    Done(Said),
}

/// Not such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(&'static str);

/// Looks at all that was read so far.
///
/// # Errors
/// [`Malformed`].
pub fn step(read: &[u8]) -> Result<Step, Malformed> {
    let begins = |with: &[u8]| read.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        if read.len() < 16 {
            return Ok(Step::More(16 - read.len()));
        }
        return binary(read);
    }
    if begins(WORD) {
        // The shortest line is longer than this; from there on by bytes, for its end is not known.
        const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();
        return match read.ends_with(b"\r\n") {
            true => line(read).map(Step::Done),
            false if read.len() >= LINE_MAX => Err(Malformed("the line does not end")),
            false => Ok(Step::More(SHORTEST.saturating_sub(read.len()).max(1))),
        };
    }
    Err(Malformed("it does not begin as one"))
}

fn line(read: &[u8]) -> Result<Said, Malformed> {
    let text = read.strip_suffix(b"\r\n").unwrap_or(read);
    let text = std::str::from_utf8(text).map_err(|_| Malformed("no text"))?;
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Said::Itself);
    }
    let words: Vec<&str> = words.collect();
    let [from, to, from_port, to_port] = words[..] else {
        return Err(Malformed("two addresses and two ports are expected"));
    };
    let ip = |text: &str| -> Result<IpAddr, Malformed> {
        let read = match family {
            Some("TCP4") => text.parse().map(IpAddr::V4),
            Some("TCP6") => text.parse().map(IpAddr::V6),
            _ => return Err(Malformed("TCP4, TCP6 or UNKNOWN is expected")),
        };
        read.map_err(|_| Malformed("an address"))
    };
    let port = |text: &str| -> Result<u16, Malformed> {
        let plain = text == "0" || !text.starts_with(['0', '+']);
        let read = text.parse().ok().filter(|_| plain);
        read.ok_or(Malformed("a port"))
    };
    Ok(Said::Ends(
        SocketAddr::new(ip(from)?, port(from_port)?),
        SocketAddr::new(ip(to)?, port(to_port)?),
    ))
}

fn binary(read: &[u8]) -> Result<Step, Malformed> {
    let (Some(&[command, family, high, low]), Some(rest)) = (
        read.get(12..16).and_then(|four| four.first_chunk()),
        read.get(16..),
    ) else {
        return Err(Malformed("too short"));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_MAX - 16 {
        return Err(Malformed("too long"));
    }
    if rest.len() < length {
        return Ok(Step::More(length - rest.len()));
    }
    let said = match command {
        0x20 => Said::Itself,
        0x21 => match family {
            0x11 => ends(rest, |bytes: [u8; 4]| IpAddr::V4(Ipv4Addr::from(bytes)))?,
            0x21 => ends(rest, |bytes: [u8; 16]| IpAddr::V6(Ipv6Addr::from(bytes)))?,
            // Unspecified, datagrams and Unix sockets: none has an address that could be shown.
            0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Said::Itself,
            _ => return Err(Malformed("an unknown family")),
        },
        _ => return Err(Malformed("an unknown version or command")),
    };
    Ok(Step::Done(said))
}

/// Two addresses, two ports.
fn ends<const N: usize>(rest: &[u8], ip: fn([u8; N]) -> IpAddr) -> Result<Said, Malformed> {
    let short = || Malformed("the addresses are cut short");
    let (from, rest) = rest.split_first_chunk::<N>().ok_or_else(short)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or_else(short)?;
    let (from_port, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let to_port = rest.first_chunk::<2>().ok_or_else(short)?;
    Ok(Said::Ends(
        SocketAddr::new(ip(*from), u16::from_be_bytes(*from_port)),
        SocketAddr::new(ip(*to), u16::from_be_bytes(*to_port)),
    ))
}

/// Reads a header and nothing after it. Whoever calls bounds the time.
///
/// # Errors
/// The socket's, the end of it, and `InvalidData` for what is no header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Said> {
    let mut read = Vec::with_capacity(LINE_MAX);
    // Both kinds are longer than this.
    let mut more = SIGNATURE.len();
    loop {
        let from = read.len();
        read.resize(from + more, 0);
        let got = stream.read(&mut read[from..]).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.truncate(from + got);
        match step(&read).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
            Step::More(count) => more = count,
            Step::Done(said) => return Ok(said),
        }
    }
}

#[cfg(test)]
#[path = "proxy_test.rs"]
mod test;
