//! The work of one publisher and of one consumer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::connection::{CHANNEL, Connection, Error};
use crate::options::{Options, Value};
use crate::wire::{Args, BODY, Frame, HEADER, METHOD, ids};

/// Bytes a publisher gathers before it writes.
const WRITE_BYTES: usize = 64 * 1024;
/// A blocking read looks up this often.
const LOOK_UP: Duration = Duration::from_millis(100);
/// A drained queue is one from which nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);

/// What all threads share.
pub struct Shared {
    pub published: AtomicU64,
    pub confirmed: AtomicU64,
    pub refused: AtomicU64,
    pub consumed: AtomicU64,
    pub measuring: AtomicBool,
    pub stop: AtomicBool,
    pub start: Instant,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            start: Instant::now(),
        })
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A histogram of microseconds up to ten minutes, three digits.
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 600_000_000, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("bounds are constants: {error}"),
    }
}

/// Declares a queue.
pub fn declare(connection: &mut Connection, options: &Options, queue: &str) -> Result<u32, Error> {
    connection.out.method(CHANNEL, 50, 10, |out| {
        out.u16(0);
        out.short(queue);
        out.u8(0b10);
        out.table(|out| {
            out.short("x-queue-type");
            out.u8(b'S');
            out.long(options.queue_type.as_bytes());
            for (key, value) in &options.arguments {
                out.short(key);
                match value {
                    Value::Int(value) => {
                        out.u8(b'l');
                        out.u64(value.cast_unsigned());
                    }
                    Value::Bool(value) => {
                        out.u8(b't');
                        out.u8(u8::from(*value));
                    }
                    Value::Text(value) => {
                        out.u8(b'S');
                        out.long(value.as_bytes());
                    }
                }
            }
        });
    });
    connection.wait((50, 11), |mut args| {
        args.short();
        args.u32()
    })
}

/// A publisher's messages on their way to their confirm, and what was sent in all.
struct Confirms {
    sent: Sender<(u64, u64)>,
    last: Arc<AtomicU64>,
}

/// Publishes until told to stop; the latency of confirms.
pub fn publish(
    options: &Options,
    shared: &Arc<Shared>,
    number: u32,
    quota: Option<u64>,
) -> Result<Histogram<u64>, Error> {
    let mut connection = Connection::open(options)?;
    let queue = format!("{}{}", options.queue_prefix, number % options.queues);
    let mut confirms = None;
    let mut reader = None;
    if options.confirm > 0 {
        connection.out.method(CHANNEL, 85, 10, |out| out.u8(0));
        connection.wait((85, 11), |_| ())?;
        let (sent, marks) = channel();
        let last = Arc::new(AtomicU64::new(0));
        confirms = Some(Confirms {
            sent,
            last: Arc::clone(&last),
        });
        reader = Some(confirm_reader(&connection, options, shared, &last, marks)?);
    }
    let sent = publish_loop(
        &mut connection,
        options,
        shared,
        number,
        &queue,
        quota,
        confirms,
    )?;
    let Some(reader) = reader else {
        return Ok(histogram());
    };
    // The reader ends when everything that was sent has been confirmed.
    drop(connection);
    match reader.join() {
        Ok((histogram, last)) => {
            assert!(
                last >= sent || shared.stopped(),
                "{sent} sent, {last} confirmed"
            );
            Ok(histogram)
        }
        Err(_) => Err(Error::Unexpected((60, 80))),
    }
}

fn publish_loop(
    connection: &mut Connection,
    options: &Options,
    shared: &Shared,
    number: u32,
    queue: &str,
    quota: Option<u64>,
    confirms: Option<Confirms>,
) -> Result<u64, Error> {
    let mut body = vec![b'x'; options.size];
    let mut sent = 0u64;
    let begin = Instant::now();
    while !shared.stopped() && quota.is_none_or(|quota| sent < quota) {
        let mut room = quota.map_or(u64::MAX, |quota| quota - sent);
        if let Some(confirms) = &confirms {
            let out = sent - confirms.last.load(Ordering::Acquire);
            room = room.min(options.confirm.saturating_sub(out));
            if room == 0 {
                // Half the window at least, so that neither side is woken for every message.
                while !shared.stopped()
                    && sent - confirms.last.load(Ordering::Acquire) > options.confirm / 2
                {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                continue;
            }
        }
        if options.rate > 0 {
            let due = (begin.elapsed().as_secs_f64() * options.rate as f64) as u64;
            room = room.min(due.saturating_sub(sent));
            if room == 0 {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
        }
        let now = shared.now_us();
        let mut batch = 0;
        while batch < room && connection.out.0.len() < WRITE_BYTES {
            stamp(&mut body, now, number, sent + 1);
            connection.out.method(CHANNEL, 60, 40, |out| {
                out.u16(0);
                out.short("");
                out.short(queue);
                out.u8(0);
            });
            connection
                .out
                .header(CHANNEL, options.size as u64, !options.transient);
            let frame_max = connection.frame_max;
            connection.out.body(CHANNEL, frame_max, &body);
            sent += 1;
            batch += 1;
        }
        if let Some(confirms) = &confirms
            && confirms.sent.send((sent, now)).is_err()
        {
            return Ok(sent);
        }
        connection.flush()?;
        shared.published.fetch_add(batch, Ordering::Relaxed);
    }
    Ok(sent)
}

fn stamp(body: &mut [u8], now: u64, publisher: u32, number: u64) {
    if let Some(at) = body.get_mut(..8) {
        at.copy_from_slice(&now.to_be_bytes());
    }
    if let Some(at) = body.get_mut(8..20) {
        at[..4].copy_from_slice(&publisher.to_be_bytes());
        at[4..].copy_from_slice(&number.to_be_bytes());
    }
}

type ConfirmReader = std::thread::JoinHandle<(Histogram<u64>, u64)>;

fn confirm_reader(
    connection: &Connection,
    options: &Options,
    shared: &Arc<Shared>,
    last: &Arc<AtomicU64>,
    marks: Receiver<(u64, u64)>,
) -> Result<ConfirmReader, Error> {
    let mut reader = Connection::over(connection.socket.try_clone()?, LOOK_UP)?;
    let (shared, last) = (Arc::clone(shared), Arc::clone(last));
    let window = options.confirm;
    let publisher = std::thread::current();
    Ok(std::thread::spawn(move || {
        let mut histogram = histogram();
        let mut pending = std::collections::VecDeque::new();
        let (mut confirmed, mut singles) = (0u64, std::collections::BTreeSet::new());
        loop {
            let mut seen = 0;
            let read = reader.pump(|frame| {
                if let Some((tag, multiple, good)) = verdict(&frame) {
                    if !good {
                        shared.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    if multiple {
                        seen = seen.max(tag);
                    } else {
                        singles.insert(tag);
                    }
                }
            });
            let before = confirmed;
            confirmed = confirmed.max(seen);
            while singles.first().is_some_and(|tag| *tag <= confirmed + 1) {
                if let Some(tag) = singles.pop_first() {
                    confirmed = confirmed.max(tag);
                }
            }
            let open = pending_marks(&marks, &mut pending);
            let now = shared.now_us();
            while pending.front().is_some_and(|(to, _)| *to <= confirmed) {
                let Some((_, at)) = pending.pop_front() else {
                    break;
                };
                if shared.measuring.load(Ordering::Relaxed) {
                    histogram.saturating_record(now.saturating_sub(at).max(1));
                }
            }
            shared
                .confirmed
                .fetch_add(confirmed - before, Ordering::Relaxed);
            last.store(confirmed, Ordering::Release);
            if confirmed - before > 0 && (window < 64 || pending.len() < 64) {
                publisher.unpark();
            }
            let done = !open && pending.is_empty();
            let gone = read.is_err() || (shared.stopped() && !open && read.is_ok_and(|came| !came));
            if done || gone {
                return (histogram, confirmed);
            }
        }
    }))
}

/// Takes what the publisher has sent since; whether it still publishes.
fn pending_marks(
    marks: &Receiver<(u64, u64)>,
    pending: &mut std::collections::VecDeque<(u64, u64)>,
) -> bool {
    loop {
        match marks.try_recv() {
            Ok(mark) => pending.push_back(mark),
            Err(std::sync::mpsc::TryRecvError::Empty) => return true,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
        }
    }
}

fn verdict(frame: &Frame<'_>) -> Option<(u64, bool, bool)> {
    if frame.kind != METHOD {
        return None;
    }
    let good = match ids(frame.payload) {
        (60, 80) => true,
        (60, 120) => false,
        _ => return None,
    };
    let mut args = Args::of(frame.payload);
    Some((args.u64(), args.u8() & 1 != 0, good))
}

/// What a consumer found.
pub struct Consumed {
    pub latency: Histogram<u64>,
    pub disorder: u64,
    pub repeats: u64,
    pub gaps: u64,
}

/// Consumes until told to stop, or, alone, until the queue is empty.
pub fn consume(options: &Options, shared: &Arc<Shared>, number: u32) -> Result<Consumed, Error> {
    let mut connection = Connection::open(options)?;
    let queue = format!("{}{}", options.queue_prefix, number % options.queues);
    connection.out.method(CHANNEL, 60, 10, |out| {
        out.u32(0);
        out.u16(options.prefetch);
        out.u8(0);
    });
    connection.wait((60, 11), |_| ())?;
    let no_ack = options.ack_every == 0;
    connection.out.method(CHANNEL, 60, 20, |out| {
        out.u16(0);
        out.short(&queue);
        out.short("bench");
        out.u8(if no_ack { 0b10 } else { 0 });
        out.table(|_| ());
    });
    connection.wait((60, 21), |_| ())?;
    connection.socket.set_read_timeout(Some(LOOK_UP))?;
    let mut state = Consuming {
        found: Consumed {
            latency: histogram(),
            disorder: 0,
            repeats: 0,
            gaps: 0,
        },
        last: HashMap::new(),
        body: 0,
        got: 0,
        tag: 0,
        acked: 0,
        verify: options.verify && options.size >= 20,
    };
    let mut quiet = Instant::now();
    while !shared.stopped() {
        let before = state.tag;
        // One look at the clock for all that one read brought, after it came.
        let (mut now, measuring) = (None, shared.measuring.load(Ordering::Relaxed));
        let came = connection.pump(|frame| {
            let now = *now.get_or_insert_with(|| shared.now_us());
            state.take(&frame, now, measuring);
        })?;
        if came {
            quiet = Instant::now();
        } else if options.consume_only && quiet.elapsed() > QUIET {
            break;
        }
        let whole = if state.body > 0 {
            state.tag - 1
        } else {
            state.tag
        };
        if !no_ack && (whole - state.acked >= options.ack_every || (!came && whole > state.acked)) {
            connection.out.method(CHANNEL, 60, 80, |out| {
                out.u64(whole);
                out.u8(1);
            });
            connection.flush()?;
            state.acked = whole;
        }
        let consumed = shared
            .consumed
            .fetch_add(state.tag - before, Ordering::Relaxed);
        if options.consume_only
            && options.count > 0
            && consumed + state.tag - before >= options.count
        {
            break;
        }
    }
    Ok(state.found)
}

struct Consuming {
    found: Consumed,
    last: HashMap<u32, u64>,
    /// Body bytes still to come.
    body: u64,
    got: usize,
    tag: u64,
    acked: u64,
    verify: bool,
}

impl Consuming {
    fn take(&mut self, frame: &Frame<'_>, now: u64, measuring: bool) {
        match frame.kind {
            METHOD if ids(frame.payload) == (60, 60) => {
                let mut args = Args::of(frame.payload);
                args.short();
                self.tag = args.u64();
            }
            HEADER => {
                let mut args = Args::of(frame.payload);
                self.body = args.u64();
                self.got = 0;
            }
            BODY => {
                if self.got == 0 {
                    self.first(frame.payload, now, measuring);
                }
                self.got += frame.payload.len();
                self.body -= frame.payload.len() as u64;
            }
            _ => {}
        }
    }

    fn first(&mut self, body: &[u8], now: u64, measuring: bool) {
        let mut args = Args(body);
        if body.len() >= 8 && measuring {
            let at = args.u64();
            self.found
                .latency
                .saturating_record(now.saturating_sub(at).max(1));
        }
        if self.verify {
            let mut args = Args(body.get(8..).unwrap_or_default());
            let (publisher, number) = (args.u32(), args.u64());
            let last = self.last.entry(publisher).or_insert(0);
            match number.cmp(&(*last + 1)) {
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.found.gaps += number - *last - 1,
                std::cmp::Ordering::Less if number == *last => self.found.repeats += 1,
                std::cmp::Ordering::Less => self.found.disorder += 1,
            }
            *last = number.max(*last);
        }
    }
}
