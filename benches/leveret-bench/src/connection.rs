//! One connection with one channel over a blocking socket.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::options::Options;
use crate::wire::{Args, Frame, HEARTBEAT, METHOD, Out, frame, ids};

pub const CHANNEL: u16 = 1;
const READ_BYTES: usize = 256 * 1024;
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the {what}: {code} {text}")]
    Closed {
        what: &'static str,
        code: u16,
        text: String,
    },
    #[error("the broker sent {0:?} where something else was due")]
    Unexpected((u16, u16)),
}

/// See the module's head.
pub struct Connection {
    pub socket: TcpStream,
    pub out: Out,
    pub frame_max: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects, logs in and opens a channel.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let socket = TcpStream::connect((options.host.as_str(), options.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let mut this = Self {
            socket,
            out: Out::default(),
            frame_max: 131_072,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        };
        this.socket.write_all(b"AMQP\0\0\x09\x01")?;
        this.wait((10, 10), |_| ())?;
        let login = format!("\0{}\0{}", options.user, options.pass);
        this.out.method(0, 10, 11, |out| {
            out.table(|_| ());
            out.short("PLAIN");
            out.long(login.as_bytes());
            out.short("en_US");
        });
        let (channels, frame_max) = this.wait((10, 30), |mut args| (args.u16(), args.u32()))?;
        this.frame_max = if frame_max == 0 {
            131_072
        } else {
            frame_max as usize
        };
        this.out.method(0, 10, 31, |out| {
            out.u16(channels);
            out.u32(frame_max);
            out.u16(0);
        });
        this.out.method(0, 10, 40, |out| {
            out.short(&options.vhost);
            out.short("");
            out.u8(0);
        });
        this.wait((10, 41), |_| ())?;
        this.out.method(CHANNEL, 20, 10, |out| out.short(""));
        this.wait((20, 11), |_| ())?;
        Ok(this)
    }

    /// The reading half of a connection that is open.
    pub fn over(socket: TcpStream, timeout: Duration) -> Result<Self, Error> {
        socket.set_read_timeout(Some(timeout))?;
        let buffer = vec![0; READ_BYTES];
        Ok(Self {
            socket,
            out: Out::default(),
            frame_max: 131_072,
            buffer,
            start: 0,
            end: 0,
        })
    }

    /// Sends what was written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.socket.write_all(&self.out.0)?;
        self.out.0.clear();
        Ok(())
    }

    /// Flushes, and waits for this method, reading its arguments.
    pub fn wait<T>(
        &mut self,
        wanted: (u16, u16),
        read: impl FnOnce(Args<'_>) -> T,
    ) -> Result<T, Error> {
        self.flush()?;
        loop {
            let mut found = None;
            let used = match frame(&self.buffer[self.start..self.end]) {
                None => 0,
                Some((frame, used)) => {
                    if let Some(error) = closed(&frame) {
                        return Err(error);
                    }
                    if frame.kind == METHOD {
                        if ids(frame.payload) != wanted {
                            return Err(Error::Unexpected(ids(frame.payload)));
                        }
                        found = Some((self.start, self.start + used));
                    }
                    used
                }
            };
            self.start += used;
            if let Some((from, to)) = found
                && let Some((frame, _)) = frame(&self.buffer[from..to])
            {
                return Ok(read(Args::of(frame.payload)));
            }
            if used == 0 && self.fill()? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Reads once from the socket; 0 if the broker closed it.
    fn fill(&mut self) -> Result<usize, Error> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.socket.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// Reads once, if no whole frame is there, and hands on every whole one. `Ok(false)`: nothing came within the read timeout.
    pub fn pump(&mut self, mut take: impl FnMut(Frame<'_>)) -> Result<bool, Error> {
        // What came in one read with the answer that was waited for lies here already.
        let held = frame(&self.buffer[self.start..self.end]).is_some();
        match if held { Ok(1) } else { self.fill() } {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        while let Some((frame, used)) = frame(&self.buffer[self.start..self.end]) {
            if let Some(error) = closed(&frame) {
                return Err(error);
            }
            if frame.kind != HEARTBEAT {
                take(frame);
            }
            self.start += used;
        }
        Ok(true)
    }
}

fn closed(frame: &Frame<'_>) -> Option<Error> {
    if frame.kind != METHOD {
        return None;
    }
    let what = match ids(frame.payload) {
        (10, 50) => "connection",
        (20, 40) => "channel",
        _ => return None,
    };
    let mut args = Args::of(frame.payload);
    let code = args.u16();
    let text = String::from_utf8_lossy(args.short()).into_owned();
    Some(Error::Closed { what, code, text })
}
