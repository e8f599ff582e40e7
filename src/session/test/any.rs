//! What holds for any input.

use amq_protocol::protocol::{confirm, queue, tx};
use proptest::prelude::*;

use super::*;

/// One frame, or frames, of a client: often sensible, now and then not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let channel = 1..4u16;
    prop_oneof![
        4 => (channel.clone(), "[a-z]{0,40}").prop_map(|(c, body)| publish(c, "q", &body)),
        3 => (channel.clone(), 0..6u64, any::<bool>()).prop_map(|(c, delivery_tag, multiple)| {
            frame(c, basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }))
        }),
        2 => (channel.clone(), "[ab]").prop_map(|(c, tag)| frame(c, consume("q", &tag, tag == "b"))),
        1 => channel.clone().prop_map(|c| frame(c, channel_open())),
        1 => channel.clone().prop_map(|c| frame(c, channel_close())),
        1 => channel.clone().prop_map(|c| frame(c, channel_close_ok())),
        1 => channel.clone().prop_map(|c| frame(c, confirm::AMQPMethod::Select(confirm::Select { nowait: false }))),
        1 => channel.clone().prop_map(|c| frame(c, tx::AMQPMethod::Select(tx::Select {}))),
        1 => channel.clone().prop_map(|c| frame(c, tx::AMQPMethod::Commit(tx::Commit {}))),
        1 => channel.clone().prop_map(|c| frame(c, tx::AMQPMethod::Rollback(tx::Rollback {}))),
        1 => channel.clone().prop_map(|c| frame(c, basic::AMQPMethod::Recover(basic::Recover { requeue: true }))),
        1 => channel.clone().prop_map(|c| frame(c, queue::AMQPMethod::Purge(queue::Purge { queue: "q".into(), nowait: false }))),
        1 => Just(raw(8, 0, b"")),
    ]
}

fn wild() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        20 => piece(),
        1 => (1..4u8, 0..4u16, payload.clone()).prop_map(|(kind, channel, payload)| raw(kind, channel, &payload)),
        1 => payload,
    ]
}

fn opened() -> Peer {
    let mut peer = Peer::running();
    for channel in 1..4 {
        peer.open_channel(channel);
    }
    peer
}

/// Answers everything as a willing broker would, and delivers one message to each new consumer.
fn serve(peer: &mut Peer, log: &mut Vec<String>) {
    loop {
        let Some(request) = peer.session.poll_request() else {
            let before = peer.input.len();
            peer.bytes(b"");
            if peer.input.len() == before {
                return;
            }
            continue;
        };
        log.push(format!("{request:?}"));
        let Request::Channel(id, request) = request else {
            peer.session.answer(Answer::Done);
            continue;
        };
        let answer = match request {
            ChannelRequest::Publish(publish) => {
                if let Some(number) = publish.confirm {
                    peer.session.confirm(id, number, false);
                }
                continue;
            }
            ChannelRequest::Settle(_) => continue,
            ChannelRequest::Consume(consume) => {
                let consumer = if consume.no_ack { 2 } else { 1 };
                peer.answer(id.0, consuming(consumer, &consume.tag, consume.no_ack));
                // What waited behind consume may have closed the channel again.
                let delivered = peer.deliver(id.0, consumer, 1);
                log.push(format!("delivered {delivered}"));
                continue;
            }
            ChannelRequest::PurgeQueue { .. } => ChannelAnswer::Count(1),
            _ => ChannelAnswer::Done,
        };
        peer.answer(id.0, answer);
    }
}

/// What the broker was asked and the client sent, for a stream cut like this.
fn run(
    stream: &[u8],
    mut cuts: impl Iterator<Item = usize>,
    serve_each: bool,
) -> (Vec<String>, Vec<String>) {
    let (mut peer, mut log) = (opened(), Vec::new());
    let mut rest = stream;
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at(cut);
        rest = later;
        peer.bytes(now);
        if serve_each {
            serve(&mut peer, &mut log);
        }
    }
    serve(&mut peer, &mut log);
    peer.session.flush_confirms();
    (log, peer.sent())
}

proptest! {
    /// Served after every piece a client sends, or after every chunk: chunks of 8 bytes never end two frames.
    #[test]
    fn any_chunking_gives_the_same_requests_and_output(
        pieces in proptest::collection::vec(piece(), 1..60),
        cuts in proptest::collection::vec(1..9usize, 1..200),
    ) {
        let stream = pieces.concat();
        let (whole_log, whole_sent) = run(&stream, pieces.iter().map(Vec::len), true);
        let (cut_log, cut_sent) = run(&stream, cuts.iter().copied().cycle(), true);
        prop_assert_eq!(cut_log, whole_log);
        prop_assert_eq!(cut_sent, whole_sent);
    }

    #[test]
    fn any_chunking_gives_the_same_when_the_broker_is_late(
        pieces in proptest::collection::vec(piece(), 1..60),
        cuts in proptest::collection::vec(1..200usize, 1..200),
    ) {
        let stream = pieces.concat();
        let (whole_log, whole_sent) = run(&stream, std::iter::empty(), false);
        let (cut_log, cut_sent) = run(&stream, cuts.iter().copied().cycle(), false);
        prop_assert_eq!(cut_log, whole_log);
        prop_assert_eq!(cut_sent, whole_sent);
    }

    #[test]
    fn nothing_a_client_sends_panics_or_piles_up(
        pieces in proptest::collection::vec(wild(), 1..80),
        served in any::<bool>(),
        late in 0..80usize,
    ) {
        let (mut peer, mut log) = (opened(), Vec::new());
        for (at, piece) in pieces.iter().enumerate() {
            peer.bytes(piece);
            if served {
                serve(&mut peer, &mut log);
            }
            if at == late {
                peer.session.fail_channel(ChannelId(1), not_found(), (60, 40));
            }
        }
        serve(&mut peer, &mut log);
        peer.session.flush_confirms();
        peer.session.shutdown("end");
        serve(&mut peer, &mut log);
        prop_assert_eq!(peer.session.core.backlog_bytes, 0);
        prop_assert_eq!(peer.session.channel_count(), 0);
        peer.session.handle_timeout(Millis(60_000));
        prop_assert!(peer.session.is_closed());
    }
}
