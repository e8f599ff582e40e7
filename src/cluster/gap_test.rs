//! A batch that comes before the one it follows, as after a leader that fell and rose again: it is not applied, not told
//! as applied, and asked for again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot::error::TryRecvError;

use super::outbox::Outbox;
use super::registry::Registry;
use super::replica::{SetEffects, SetReplica};
use super::ring::{PipeEvent, Ring};
use super::topology_replica::{SharedTopology, TopologyReplica};
use crate::base::{Millis, NodeId, PipeId, QueueId, SetId};
use crate::model::batch::BufferPool;
use crate::model::set::{Command, MemoryPages, SetMachine};
use crate::model::topology::TopologyCommand;
use crate::raft::Machine;

const PIPE: PipeId = PipeId {
    node: NodeId(1),
    incarnation: 1,
};

/// Applies `second` before `first`, then both in order.
fn apply_with_gap<R>(
    replica: &mut impl Machine,
    outbox: &Outbox<R>,
    first: &Bytes,
    second: &Bytes,
) {
    assert!(!outbox.take_resend());
    replica.apply(11, 1, second);
    assert_eq!(outbox.in_flight(), 2, "neither is told as applied");
    assert!(outbox.take_resend(), "both are asked for again");
    assert_eq!(outbox.unapplied(), [first.clone(), second.clone()]);
    replica.apply(12, 1, first);
    replica.apply(13, 1, second);
    assert_eq!(outbox.in_flight(), 0);
    replica.apply(14, 1, second);
    assert!(!outbox.take_resend(), "a repeat is no gap");
}

#[test]
fn a_set_neither_confirms_nor_forgets_a_batch_before_which_one_is_missing() {
    let outbox = Arc::new(Outbox::new(SetId(1), PIPE, BufferPool::default()));
    let (effects, _receiver) = SetEffects::channel(8);
    let mut replica = SetReplica::new(
        SetMachine::new(Box::new(MemoryPages::default())),
        Arc::clone(&outbox),
        Arc::new(Registry::new(PIPE)),
        effects,
        Arc::new(Ring::for_all(NodeId(9))),
    );
    outbox.push(&Command::OpenPipe);
    let open = outbox.seal(Millis(1)).unwrap();
    replica.apply(10, 1, &open);
    let inspect = Command::Inspect {
        queue: QueueId(1),
        touch: false,
    };
    let mut answer = outbox.ask(&inspect);
    let first = outbox.seal(Millis(2)).unwrap();
    outbox.push(&Command::Tick);
    let second = outbox.seal(Millis(3)).unwrap();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    apply_with_gap(&mut replica, &outbox, &first, &second);
    answer.try_recv().unwrap();
}

#[test]
fn a_node_without_a_replica_hears_of_the_gap() {
    let outbox = Outbox::<()>::new(SetId(1), PIPE, BufferPool::default());
    let elsewhere = PipeId {
        node: NodeId(2),
        incarnation: 1,
    };
    let ring = Arc::new(Ring::for_all(elsewhere.node));
    let (effects, _receiver) = SetEffects::channel(8);
    let mut replica = SetReplica::new(
        SetMachine::new(Box::new(MemoryPages::default())),
        Arc::new(Outbox::new(SetId(1), elsewhere, BufferPool::default())),
        Arc::new(Registry::new(elsewhere)),
        effects,
        Arc::clone(&ring),
    );
    let mut batches = Vec::new();
    for command in [Command::OpenPipe, Command::Tick, Command::Tick] {
        outbox.push(&command);
        batches.push(outbox.seal(Millis(1)).unwrap());
    }
    for (index, batch) in [(10, 0), (11, 2), (12, 1), (13, 2)] {
        replica.apply(index, 1, &batches[batch]);
    }
    let (events, _) = ring.read(PIPE, 0, usize::MAX).unwrap();
    let gaps: Vec<_> = events
        .iter()
        .filter(|event| matches!(event, PipeEvent::Gap(_)))
        .collect();
    assert_eq!(gaps, [&PipeEvent::Gap(1)]);
    assert_eq!(events.last(), Some(&PipeEvent::Applied(3)));
}

#[test]
fn the_topology_answers_a_command_that_was_overtaken() {
    let outbox = Arc::new(Outbox::new(SetId::TOPOLOGY, PIPE, BufferPool::default()));
    let shared = Arc::new(SharedTopology::default());
    let mut replica = TopologyReplica::new(shared, Arc::clone(&outbox));
    let add = |name: &str| {
        let mut bytes = BytesMut::new();
        let command = TopologyCommand::AddVhost {
            name: name.to_owned(),
            default_queue_type: "classic".to_owned(),
        };
        command.encode(&mut bytes);
        bytes
    };
    let mut answers = Vec::new();
    let mut batches = Vec::new();
    for name in ["one", "two"] {
        answers.push(outbox.ask_opaque(&add(name)));
        batches.push(outbox.seal(Millis(1)).unwrap());
    }
    apply_with_gap(&mut replica, &outbox, &batches[0], &batches[1]);
    for answer in &mut answers {
        answer.try_recv().unwrap();
    }
}

#[test]
fn entries_skipped_by_a_snapshot_leave_nobody_waiting() {
    let make = || {
        let outbox = Arc::new(Outbox::new(SetId(1), PIPE, BufferPool::default()));
        let (effects, receiver) = SetEffects::channel(8);
        let replica = SetReplica::new(
            SetMachine::new(Box::new(MemoryPages::default())),
            Arc::clone(&outbox),
            Arc::new(Registry::new(PIPE)),
            effects,
            Arc::new(Ring::for_all(NodeId(9))),
        );
        (outbox, replica, receiver)
    };
    let ask = |outbox: &Outbox<_>| {
        outbox.push(&Command::OpenPipe);
        outbox.ask(&Command::Inspect {
            queue: QueueId(1),
            touch: false,
        })
    };
    let (outbox, mut behind, _one) = make();
    let mut answer = ask(&outbox);
    let payload = outbox.seal(Millis(1)).unwrap();
    let (_, mut ahead, _two) = make();
    ahead.apply(10, 1, &payload);
    let state = ahead.snapshot();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    behind.restore(&state).unwrap();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(outbox.in_flight(), 0);
}
