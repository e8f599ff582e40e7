//! What a broker does with a damaged data folder: cut tails, flipped bits.
//!
//! A folder is filled with confirmed messages, the process is killed, and copies of the folder are damaged in one place
//! each. A broker started on a copy either serves, and then every byte it delivers is one that was published, in order;
//! or it says what is wrong and ends. Where the bytes stand is in `docs/formats.md`.
//! More flips: `COMPAT_DAMAGE_FLIPS=1000 cargo test --release -p compat-tests --test damage`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::{
    Broker, Refused, Settings, TempDir, env_number, eventually, skipped_on_foreign,
};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;

const QUEUE: &str = "damaged";
/// Published after the start on a damaged folder: what is delivered before it is all there is.
const LAST: &[u8] = b"the last one";
/// Messages of the folder with few of them, one record each.
const FEW: usize = 40;
/// Messages of the folder with a cold index page, which is 4096 runs once twice as many wait.
const MANY: usize = 8500;
/// The bytes of a segment before its first frame.
const START: usize = 4096;
const FRAME: usize = 20;
const HEADER: usize = 24;
/// Starts at a time.
const AT_ONCE: usize = 2;
/// Small segments and frequent snapshots, so that a small folder has some of each file.
const SMALL: Settings<'static> = &[
    ("leveret.segment_size", "1MiB"),
    ("leveret.snapshot_every", "1MiB"),
];

/// The body of a message; neighbours differ in length, so that each is a run of its own in the index. Beyond the first
/// few they are longer, so that many of them are several segments.
fn body(number: usize) -> Vec<u8> {
    let padding = number % 2 + if number < FEW { 0 } else { 150 };
    let mut body = format!("{number:08} of the damaged folder").into_bytes();
    body.resize(body.len() + padding, b'.');
    body
}

/// Publishes `count` messages, `window` at a time, each window confirmed before the next.
async fn fill(broker: &Broker, count: usize, window: usize) {
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, QUEUE, FieldTable::default()).await;
    let mut waiting = Vec::new();
    for number in 0..count {
        let (options, body) = (BasicPublishOptions::default(), body(number));
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
        waiting.push(sent.await.expect("sent"));
        if waiting.len() == window || number + 1 == count {
            for confirm in waiting.drain(..) {
                assert!(confirm.await.expect("answered").is_ack());
            }
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// A copy of all a broker keeps, in a folder of its own.
fn copy(from: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_into(&from.join("data"), &folder.path().join("data"));
    folder
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of the broker") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_into(&entry.path(), &target);
        } else if entry.file_type().expect("a type").is_file() {
            // What is no file, the control socket, is made anew at every start.
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// All files below `folder`, relative to it, in order of name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = open.pop() {
        for entry in std::fs::read_dir(folder.join(&inner)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = inner.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                open.push(path);
            } else if entry.file_type().expect("a type").is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The newest segment of a set, relative to the folder.
fn newest_segment(folder: &Path, set: &str) -> PathBuf {
    let mut segments = files(folder);
    segments
        .retain(|path| path.starts_with(set) && path.extension().is_some_and(|one| one == "seg"));
    segments.pop().expect("a segment")
}

/// The frames and records of a segment in order, by their lengths alone.
fn items(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    let mut at = START;
    while at + HEADER <= bytes.len() && bytes[at] != 0 {
        let size = if bytes[at] == 0xB5 {
            FRAME
        } else {
            let payload = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
            HEADER + usize::from(bytes[at + 1]) + usize::try_from(payload).unwrap()
        };
        items.push(at..at + size);
        at += size;
    }
    items
}

/// What came out of a damaged folder.
enum Outcome {
    Refused(Refused),
    /// The messages that came before [`LAST`], and the broker's log.
    Served {
        got: Vec<usize>,
        log: String,
    },
    /// The process ended with an error while it was asked.
    Stopped {
        log: String,
    },
}

/// Starts a broker in `folder`, adds [`LAST`], and takes everything up to it. Any wrong byte fails the test.
fn serve(folder: TempDir, case: &str) -> Outcome {
    let mut broker = match Broker::attempt(folder, SMALL) {
        Ok(broker) => broker,
        Err(refused) => return Outcome::Refused(refused),
    };
    let mut got: Vec<usize> = Vec::new();
    let whole = run(async {
        tokio::time::timeout(PATIENCE, take_all(&broker, &mut got, case))
            .await
            .unwrap_or_else(|_| panic!("{case}: the last message does not come"))
    });
    let sorted = got.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(sorted, "{case}: out of order or twice: {got:?}");
    if whole.is_some() {
        let log = broker.log();
        return Outcome::Served { got, log };
    }
    let status = eventually(Duration::from_secs(10), || broker.ended());
    assert!(!status.success(), "{case}: ended with {status}");
    let log = broker.log();
    Outcome::Stopped { log }
}

/// `None` when the connection broke.
async fn take_all(broker: &Broker, got: &mut Vec<usize>, case: &str) -> Option<()> {
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, QUEUE, FieldTable::default()).await;
    assert!(put(&channel, QUEUE, LAST).await.ok()?, "{case}: nacked");
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default());
    let mut deliveries = consuming.await.ok()?;
    while let Some(Ok(delivery)) = deliveries.next().await {
        if delivery.data == LAST {
            return Some(());
        }
        let text = String::from_utf8_lossy(&delivery.data);
        let number = text.get(..8).and_then(|digits| digits.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("{case}: delivered {text:?}"));
        assert_eq!(delivery.data, body(number), "{case}");
        got.push(number);
    }
    None
}

/// A refusal is an error that names the file, not a crash.
fn check_refusal(refused: &Refused, file: &Path, case: &str) {
    let Refused { status, stderr } = refused;
    assert_eq!(status.code(), Some(1), "{case}: {stderr}");
    assert!(!stderr.contains("panicked"), "{case}: {stderr}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(stderr.contains(name), "{case}: does not name it: {stderr}");
}

/// Does `work` on all cases, some at a time.
fn each<T: Send>(cases: Vec<T>, work: impl Fn(T) + Sync) {
    let count = cases.len();
    let cases = Mutex::new(cases.into_iter());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let Some(case) = cases.lock().unwrap().next() else {
                            return;
                        };
                        work(case);
                    }
                })
            })
            .collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    println!("{count} damaged folders");
}

/// The folder with few messages after a kill: nothing vouches for its last write.
fn few() -> (Broker, PathBuf, Vec<u8>) {
    let mut broker = Broker::start_with(SMALL);
    run(fill(&broker, FEW, 1));
    broker.kill_dash_nine();
    let segment = newest_segment(broker.data_dir(), "data/sets/1");
    let bytes = std::fs::read(broker.data_dir().join(&segment)).expect("the segment");
    (broker, segment, bytes)
}

/// Numbers of the messages whose record ends at or before `at`.
fn whole_before(items: &[Range<usize>], bytes: &[u8], at: usize) -> usize {
    let before = items.iter().filter(|item| item.end <= at);
    before
        .filter(|item| {
            bytes[(*item).clone()]
                .windows(22)
                .any(|part| part == b" of the damaged folder")
        })
        .count()
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The file ends there.
    Short,
    /// The file has its size, but nothing was written from there on.
    Zeros,
    /// Sectors of another life of the file stand there.
    Leftovers,
}

#[test]
fn a_log_cut_anywhere_in_its_last_writes_keeps_all_that_lies_before_the_cut() {
    if skipped_on_foreign("damaging the data folder") {
        return;
    }
    let (broker, segment, bytes) = few();
    let items = items(&bytes);
    assert_eq!(whole_before(&items, &bytes, bytes.len()), FEW);
    // Three messages are three frames and three records.
    let last = &items[items.len() - 6..];
    let span = last[0].start..last[5].end;
    let mut cuts: Vec<_> = (span.start..=span.end).map(|at| (at, Cut::Short)).collect();
    for item in last {
        for at in [item.start, item.start + 1, item.end - 1] {
            cuts.push((at, Cut::Zeros));
            cuts.push((at, Cut::Leftovers));
        }
    }
    each(cuts, |(at, kind)| {
        let case = format!("{kind:?} at {at} of {span:?}");
        let mut damaged = bytes.clone();
        match kind {
            Cut::Short => damaged.truncate(at),
            Cut::Zeros => damaged[at..].fill(0),
            Cut::Leftovers => {
                for (place, byte) in damaged[at..].iter_mut().enumerate() {
                    *byte = bytes[START + place % 4096];
                }
            }
        }
        let folder = copy(broker.data_dir());
        std::fs::write(folder.path().join(&segment), &damaged).expect("written");
        match serve(folder, &case) {
            Outcome::Refused(refused) => check_refusal(&refused, &segment, &case),
            Outcome::Stopped { log } => panic!("{case}: stopped\n{log}"),
            Outcome::Served { got, .. } => {
                let whole = whole_before(&items, &bytes, at);
                assert!(got.len() >= whole, "{case}: {} of {whole}", got.len());
                assert!(got.iter().copied().eq(0..got.len()), "{case}: {got:?}");
            }
        }
    });
}

/// Flips one bit of `file` in a copy of the folder.
fn flipped(from: &Path, file: &Path, at: usize) -> TempDir {
    let folder = copy(from);
    let path = folder.path().join(file);
    let mut bytes = std::fs::read(&path).expect("the file");
    bytes[at] ^= 1 << (at % 8);
    std::fs::write(path, bytes).expect("written");
    folder
}

/// About `count` places in `range`, its ends among them.
fn places(range: Range<usize>, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = range
        .clone()
        .step_by(range.len().div_ceil(count).max(1))
        .collect();
    places.extend(range.last());
    places.dedup();
    places
}

fn flips() -> usize {
    usize::try_from(env_number("COMPAT_DAMAGE_FLIPS", 60)).unwrap()
}

/// The offset that the error names.
fn named_offset(refused: &Refused) -> Option<usize> {
    let (_, rest) = refused.stderr.split_once("damaged at byte ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn a_flipped_bit_before_the_last_write_is_refused_with_file_and_offset() {
    if skipped_on_foreign("damaging the data folder") {
        return;
    }
    let (broker, segment, bytes) = few();
    let items = items(&bytes);
    // The frame of the last write says that all before it was durable.
    let last = items.iter().rposition(|item| item.len() > FRAME).unwrap();
    let last_frame = items[last - 1].clone();
    assert_eq!(last_frame.len(), FRAME);
    each(places(START..last_frame.start, flips()), |at| {
        let case = format!("bit flipped at {at}");
        let item = items.iter().find(|item| item.contains(&at)).unwrap();
        match serve(flipped(broker.data_dir(), &segment, at), &case) {
            Outcome::Refused(refused) => {
                check_refusal(&refused, &segment, &case);
                assert_eq!(named_offset(&refused), Some(item.start), "{case}");
            }
            Outcome::Served { .. } | Outcome::Stopped { .. } => panic!("{case}: not refused"),
        }
    });
    each(places(last_frame.start..bytes.len(), flips() / 2), |at| {
        let case = format!("bit flipped at {at}, in or after the last write");
        match serve(flipped(broker.data_dir(), &segment, at), &case) {
            Outcome::Refused(refused) => check_refusal(&refused, &segment, &case),
            Outcome::Stopped { log } => panic!("{case}: stopped\n{log}"),
            Outcome::Served { got, .. } => {
                assert!(got.len() >= FEW - 1, "{case}: {} left", got.len());
                assert!(got.iter().copied().eq(0..got.len()), "{case}: {got:?}");
            }
        }
    });
}

/// No bit of the last record of either set's log can be flipped unseen.
fn refuses_damage_at_the_end(broker: &Broker) {
    for set in ["data/sets/0", "data/sets/1"] {
        let segment = newest_segment(broker.data_dir(), set);
        let bytes = std::fs::read(broker.data_dir().join(&segment)).expect("the segment");
        let items = items(&bytes);
        let record = items.iter().rfind(|item| item.len() > FRAME).unwrap();
        each(places(record.clone(), flips() / 4), |at| {
            let case = format!("bit flipped at {at} of the last record {record:?} of {set}");
            match serve(flipped(broker.data_dir(), &segment, at), &case) {
                Outcome::Refused(refused) => {
                    check_refusal(&refused, &segment, &case);
                    assert_eq!(named_offset(&refused), Some(record.start), "{case}");
                }
                Outcome::Served { .. } | Outcome::Stopped { .. } => panic!("{case}: not refused"),
            }
        });
    }
}

#[test]
fn a_log_closed_in_order_refuses_damage_in_its_last_record_too() {
    if skipped_on_foreign("damaging the data folder") {
        return;
    }
    let mut broker = Broker::start_with(SMALL);
    run(fill(&broker, FEW, 1));
    broker.stop();
    refuses_damage_at_the_end(&broker);
}

#[test]
fn a_log_left_alone_for_a_moment_before_a_kill_refuses_damage_in_its_last_record_too() {
    if skipped_on_foreign("damaging the data folder") {
        return;
    }
    let mut broker = Broker::start_with(SMALL);
    run(fill(&broker, FEW, 1));
    // A frame behind the last record is what vouches for it.
    for set in ["data/sets/0", "data/sets/1"] {
        let segment = broker
            .data_dir()
            .join(newest_segment(broker.data_dir(), set));
        eventually(PATIENCE, || {
            let bytes = std::fs::read(&segment).expect("the segment");
            let last = items(&bytes).pop()?;
            (last.len() == FRAME).then_some(())
        });
    }
    broker.kill_dash_nine();
    refuses_damage_at_the_end(&broker);
}

#[test]
fn a_flipped_bit_in_any_file_never_becomes_a_wrong_message() {
    if skipped_on_foreign("damaging the data folder") {
        return;
    }
    let mut broker = Broker::start_with(SMALL);
    run(fill(&broker, MANY, 200));
    // Closed in order, so that the last write of each log is vouched for too, and a snapshot stands beside the log.
    broker.stop();
    let all = files(&broker.data_dir().join("data"));
    for kind in ["seg", "idx", "snap", "page", "meta"] {
        let some = all
            .iter()
            .any(|path| path.extension().is_some_and(|one| one == kind));
        assert!(some, "no .{kind} in {all:?}");
    }
    let mut cases = Vec::new();
    for file in all {
        let file = Path::new("data").join(file);
        let bytes = std::fs::read(broker.data_dir().join(&file)).expect("the file");
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let count = (flips() / 15).max(1);
        cases.extend(
            places(0..used, count)
                .into_iter()
                .map(|at| (file.clone(), at)),
        );
    }
    each(cases, |(file, at)| {
        let case = format!("bit flipped at {at} of {}", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        let ending = file.extension().and_then(|one| one.to_str());
        match serve(flipped(broker.data_dir(), &file, at), &case) {
            Outcome::Refused(refused) => check_refusal(&refused, &file, &case),
            Outcome::Served { got, log } => {
                assert!(ending != Some("meta"), "{case}: served");
                let (count, said) = (got.len(), log.contains(name));
                assert!(count == MANY || said, "{case}: {count} served\n{log}");
            }
            Outcome::Stopped { log } => {
                assert!(log.contains(name), "{case}: it is not said why\n{log}");
            }
        }
    });
}
