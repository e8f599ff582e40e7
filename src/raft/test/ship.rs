//! A replica behind the purged log gets state, pages and bodies, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::super::{Group, GroupOptions, LiveEntry, Machine, MachineError, PageStore};
use super::three::{Wires, rule};
use crate::base::NodeId;
use crate::base::coding::{Reader, Truncated, Writer};
use crate::log::faulty_disk::FaultyDisk;
use crate::log::{Disk, LogError, OsDisk, PageFiles};

/// Bytes of most bodies.
const BODY: usize = 3000;
/// Entries per page.
const PAGE_EVERY: u64 = 8;

struct Pages(PageFiles);

impl PageStore for Pages {
    fn read(&self, id: u64) -> io::Result<Bytes> {
        self.0.read(id).map_err(io::Error::other)
    }

    fn stage(&self, id: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.stage(id, bytes).map_err(io::Error::other)
    }

    fn adopt(&self) -> io::Result<()> {
        self.0.adopt().map_err(io::Error::other)
    }

    fn unstage(&self) {
        self.0.unstage().unwrap();
    }
}

/// Keeps every body until it is told to forget those up to an index; each few entries it writes a page.
#[derive(Default)]
struct Shelf {
    live: BTreeSet<u64>,
    applied: u64,
    pages: BTreeSet<u64>,
    files: Option<Arc<Pages>>,
    restores: u64,
}

impl Shelf {
    fn page(id: u64) -> Vec<u8> {
        vec![id as u8; 100]
    }
}

impl Machine for Shelf {
    fn apply(&mut self, index: u64, _term: u64, payload: &Bytes) {
        match payload.strip_prefix(b"forget ") {
            Some(upto) => {
                let upto = u64::from_le_bytes(upto.try_into().unwrap());
                self.live.retain(|index| *index > upto);
            }
            None => {
                self.live.insert(index);
            }
        }
        self.applied += 1;
        if self.applied.is_multiple_of(PAGE_EVERY) {
            let files = self.files.as_ref().unwrap();
            // A disk that is off tells its replica elsewhere.
            drop(files.0.write(self.applied, &Self::page(self.applied)));
            self.pages.insert(self.applied);
        }
    }

    fn snapshot(&mut self) -> Vec<u8> {
        // Durable before the snapshot is.
        drop(self.files.as_ref().unwrap().0.snapshot_prepare());
        let mut out = Vec::new();
        out.put_varint(self.applied);
        for list in [&self.live, &self.pages] {
            out.put_varint(list.len() as u64);
            list.iter().for_each(|one| out.put_varint(*one));
        }
        // Long enough for a frame of its own.
        out.put_slice(&[7; 1_200_000]);
        out
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let mut reader = Reader::new(bytes);
        let mut read = || -> Result<(), Truncated> {
            self.applied = reader.varint()?;
            for list in [&mut self.live, &mut self.pages] {
                list.clear();
                for _ in 0..reader.varint()? {
                    list.insert(reader.varint()?);
                }
            }
            Ok(())
        };
        read().map_err(|error| MachineError::new(error.to_string()))?;
        assert_eq!(reader.rest().len(), 1_200_000);
        self.restores += 1;
        self.whole_pages();
        Ok(())
    }

    fn page_ids(&self) -> Vec<u64> {
        self.pages.iter().copied().collect()
    }

    fn page_store(&self) -> Option<Arc<dyn PageStore>> {
        let files = Arc::clone(self.files.as_ref()?);
        Some(files)
    }

    fn live_bytes(&self, first: u64, last: u64) -> u64 {
        self.live.range(first..=last).count() as u64 * BODY as u64
    }

    fn live_entries(&self, first: u64, last: u64) -> Vec<LiveEntry> {
        let entry = |index: &u64| LiveEntry {
            index: *index,
            slots: vec![Range { start: 0, end: 1 }],
        };
        self.live.range(first..=last).map(entry).collect()
    }
}

impl Shelf {
    /// Every page is there when it is named.
    fn whole_pages(&self) {
        let files = self.files.as_ref().unwrap();
        for id in &self.pages {
            assert_eq!(files.0.read(*id).unwrap(), Self::page(*id));
        }
    }
}

struct Node {
    group: Group,
    machine: Arc<Mutex<Shelf>>,
    options: GroupOptions,
    _dir: TempDir,
}

fn small(wires: &Wires, dir: &TempDir, id: u64) -> GroupOptions {
    let mut options = rule(wires, dir, id);
    options.log.segment_size_bytes = 64 * 1024;
    options.log.cache_bytes = 8 * 1024;
    options.log.read_cache_bytes = 0;
    // Nobody is lost here, but the machine may be slow.
    options.election_timeout_min = Duration::from_secs(2);
    options.election_timeout_max = Duration::from_secs(3);
    options
}

async fn run(options: &GroupOptions) -> (Group, Arc<Mutex<Shelf>>) {
    let dir = options.dir.join("pages");
    let files = PageFiles::open(Arc::clone(&options.disk), dir).unwrap();
    let machine = Arc::new(Mutex::new(Shelf {
        files: Some(Arc::new(Pages(files))),
        ..Shelf::default()
    }));
    let started = Group::start(options.clone(), Arc::clone(&machine)).await;
    (started.unwrap(), machine)
}

async fn join(wires: &Wires, options: GroupOptions, dir: TempDir) -> Node {
    let (group, machine) = run(&options).await;
    wires.join(options.node, &group);
    Node {
        group,
        machine,
        options,
        _dir: dir,
    }
}

/// Two of three run; the third has never been seen.
async fn two(wires: &Wires) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=2 {
        let dir = tempfile::tempdir().unwrap();
        let options = small(wires, &dir, id);
        nodes.push(join(wires, options, dir).await);
    }
    nodes
}

async fn leader(nodes: &[Node]) -> &Node {
    loop {
        if let Some(node) = nodes.iter().find(|node| node.group.is_leader()) {
            return node;
        }
        tokio::task::yield_now().await;
    }
}

fn body(number: u64, len: usize) -> Bytes {
    (0..len)
        .map(|at| ((at as u64 * 31) ^ number) as u8)
        .collect()
}

type Bodies = BTreeMap<u64, Bytes>;

async fn publish(lead: &Node, bodies: &mut Bodies, numbers: Range<u64>) {
    for number in numbers {
        // One is longer than a frame.
        let len = if number == 100 { 2_500_000 } else { BODY };
        let payload = body(number, len);
        let receipt = lead.group.propose(payload.clone()).unwrap();
        bodies.insert(receipt.await.unwrap().index, payload);
    }
}

/// Forgets what lies up to `upto`, and says where that was noted.
async fn forget(lead: &Node, bodies: &mut Bodies, upto: u64) -> u64 {
    let mut payload = b"forget ".to_vec();
    payload.extend_from_slice(&upto.to_le_bytes());
    let receipt = lead.group.propose(payload.into()).unwrap();
    bodies.retain(|index, _| *index > upto);
    receipt.await.unwrap().index
}

/// All that lives can be read here, and is what was sent.
fn all_there(group: &Group, machine: &Mutex<Shelf>, bodies: &Bodies) {
    let machine = machine.lock();
    assert!(machine.live.iter().eq(bodies.keys()));
    machine.whole_pages();
    drop(machine);
    for (index, body) in bodies {
        assert_eq!(group.log().get(*index).unwrap().payload, *body, "{index}");
    }
}

/// Ends a replica, of which peers may hold handles, without handing anything over.
async fn kill(group: Group) {
    group.raft().shutdown().await.unwrap();
    let log = group.log().clone();
    drop(group);
    let closed = tokio::task::spawn_blocking(move || log.close());
    closed.await.unwrap().unwrap();
}

fn staged(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let dirs = [dir.to_owned(), dir.join("pages")];
    let names = dirs.iter().flat_map(|dir| disk.list(dir).unwrap());
    names.filter(|name| name.ends_with(".staged")).collect()
}

/// A leader whose log before the snapshot is purged, in part dead and deleted; a forgotten part is not.
async fn prepared(wires: &Wires) -> (Vec<Node>, Bodies, u64) {
    let nodes = two(wires).await;
    let lead = leader(&nodes).await;
    let mut bodies = Bodies::new();
    publish(lead, &mut bodies, 0..120).await;
    let middle = *bodies.keys().nth(70).unwrap();
    // Forgotten in the middle of a segment, and one before it that is live again by not being forgotten.
    forget(lead, &mut bodies, middle).await;
    lead.group.snapshot_now().await.unwrap();
    let purged = lead.group.metrics().purged.unwrap();
    assert!(purged > middle);
    let gone = lead.group.log().get(middle - 40).map(|one| one.index);
    let held = lead.group.log().segments();
    assert!(
        matches!(gone, Err(LogError::Gone { .. })),
        "{middle} {held:?}"
    );
    publish(lead, &mut bodies, 120..130).await;
    let last = *bodies.keys().last().unwrap();
    (nodes, bodies, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_the_purged_log_gets_every_live_body_and_every_page() {
    let wires = Wires::default();
    let (nodes, mut bodies, last) = prepared(&wires).await;
    let lead = leader(&nodes).await;
    let dir = tempfile::tempdir().unwrap();
    let third = join(&wires, small(&wires, &dir, 3), dir).await;
    third.group.wait_applied(last).await.unwrap();
    assert_eq!(third.machine.lock().restores, 1);
    assert_eq!(wires.snapshots.load(Ordering::Relaxed), 1);
    all_there(&third.group, &third.machine, &bodies);
    assert!(third.machine.lock().pages.len() >= 15);
    assert_eq!(staged(&OsDisk, &third.options.dir), Vec::<String>::new());
    let sum = |group: &Group| {
        let segments = group.log().segments();
        segments.iter().map(|one| one.bytes).sum::<u64>()
    };
    assert!(sum(&third.group) < sum(&lead.group) + 64 * 1024);

    // It tidies up, goes on, and comes back as any other.
    let upto = *bodies.keys().nth(30).unwrap();
    let last = forget(lead, &mut bodies, upto).await;
    third.group.wait_applied(last).await.unwrap();
    third.group.snapshot_now().await.unwrap();
    publish(lead, &mut bodies, 130..140).await;
    let last = *bodies.keys().last().unwrap();
    third.group.wait_applied(last).await.unwrap();
    all_there(&third.group, &third.machine, &bodies);
    wires.part(NodeId(3));
    kill(third.group).await;
    let (group, machine) = run(&third.options).await;
    wires.join(NodeId(3), &group);
    group.wait_applied(last).await.unwrap();
    all_there(&group, &machine, &bodies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_off_at_any_frame_changes_nothing_and_the_next_one_succeeds() {
    let wires = Wires::default();
    let (nodes, bodies, last) = prepared(&wires).await;
    let dir = tempfile::tempdir().unwrap();
    let options = small(&wires, &dir, 3);
    let (watched, seen) = (options.dir.clone(), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&seen);
    // The first breaks off before its first frame, the next after it, and so on.
    *wires.breaks.lock() = Some(Box::new(move |before| {
        told.lock().push(staged(&OsDisk, &watched));
        before
    }));
    let third = join(&wires, options, dir).await;
    third.group.wait_applied(last).await.unwrap();
    assert_eq!(third.machine.lock().restores, 1);
    all_there(&third.group, &third.machine, &bodies);
    let seen = seen.lock();
    assert!(seen.len() >= 6, "{}", seen.len());
    // Before each attempt there is nothing of the one before.
    assert!(seen.iter().all(Vec::is_empty), "{seen:?}");
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_at_any_moment_of_an_install_leaves_a_replica_that_comes_back_whole() {
    let wires = Wires::default();
    let (nodes, bodies, last) = prepared(&wires).await;
    let mut failed = 0;
    for syncs in (0..).step_by(3) {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(syncs);
        let mut options = small(&wires, &dir, 3);
        options.dir = PathBuf::from("/set");
        options.disk = Arc::new(disk.clone());
        options.log.direct = false;
        options.on_fatal = Arc::new(|_, _| {});
        let (group, machine) = run(&options).await;
        disk.fail_syncs_after(syncs);
        wires.join(NodeId(3), &group);
        let whole = group.wait_applied(last).await.is_ok();
        if whole {
            all_there(&group, &machine, &bodies);
        }
        wires.part(NodeId(3));
        let left = disk.crash();
        // Its disk is off: it cannot end well.
        drop(group.raft().shutdown().await);
        drop(group);
        let again = GroupOptions {
            disk: Arc::new(left.clone()),
            ..options
        };
        let (group, machine) = run(&again).await;
        assert_eq!(staged(&left, &again.dir), Vec::<String>::new());
        wires.join(NodeId(3), &group);
        group.wait_applied(last).await.unwrap();
        all_there(&group, &machine, &bodies);
        wires.part(NodeId(3));
        kill(group).await;
        if whole {
            break;
        }
        failed += 1;
    }
    assert!(failed >= 5, "{failed}");
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_a_snapshot_needs_goes_while_it_is_sent() {
    let wires = Wires::default();
    let (nodes, mut bodies, _) = prepared(&wires).await;
    let lead = leader(&nodes).await;
    let pin = super::super::shipping::Pin::new(lead.group.shared(), 0);
    let before = lead.group.log().segments();
    let upto = *bodies.keys().last().unwrap();
    forget(lead, &mut bodies, upto).await;
    lead.group.snapshot_now().await.unwrap();
    let first = |group: &Group| group.log().segments()[0].first;
    assert_eq!(first(&lead.group), before[0].first);
    drop(pin);
    forget(lead, &mut bodies, upto).await;
    lead.group.snapshot_now().await.unwrap();
    assert!(first(&lead.group) > before[0].first);
}
