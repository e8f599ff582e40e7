use super::*;

#[test]
fn the_clients_close_is_answered_once_the_broker_has_tidied_up() {
    let mut peer = Peer::with_channel();
    peer.send(0, close());
    peer.expect(&["CloseConnection"], &[]);
    assert!(!peer.session.wants_input());
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 CloseOk"]);
    assert!(peer.session.is_closed());
    assert_eq!(peer.session.close_reason(), None);
}

#[test]
fn what_the_client_sent_before_its_close_is_done_before_close_ok() {
    let mut peer = Peer::with_channel();
    peer.open_channel(2);
    peer.send(1, consume("q", "c", false));
    peer.bytes(&publish(1, "q", "x"));
    peer.send(2, consume("q", "d", false));
    peer.send(0, close());
    peer.expect(&["1 Consume", "2 Consume"], &[]);
    assert!(!peer.session.wants_input());
    // A channel's failure does not stop the others, and is told as ever.
    peer.answer(2, ChannelAnswer::Failed(not_found()));
    peer.answer(2, ChannelAnswer::Done);
    peer.expect(&["2 Close"], &["2 Close { reply_code: 404"]);
    peer.answer(1, consuming(7, "c", false));
    peer.expect(&["1 Publish", "CloseConnection"], &["1 ConsumeOk"]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 CloseOk"]);
    assert!(peer.session.is_closed());
}

#[test]
fn a_close_does_not_wait_for_ever_and_an_error_meanwhile_is_not_told() {
    let mut peer = Peer::with_channel();
    peer.send(1, consume("q", "c", false));
    peer.send(0, close());
    peer.expect(&["1 Consume"], &[]);
    peer.session.handle_timeout(Millis(30_000));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 CloseOk"]);

    let mut peer = Peer::with_channel();
    peer.send(1, consume("q", "c", false));
    peer.send(0, close());
    peer.session.shutdown("x");
    peer.session.answer(Answer::Done);
    peer.expect(&["1 Consume", "CloseConnection"], &["0 CloseOk"]);
    assert!(peer.session.is_closed());
}

#[test]
fn a_hard_error_waits_for_what_other_channels_were_told_before_it() {
    let mut peer = Peer::with_channel();
    peer.open_channel(2);
    peer.send(1, consume("q", "c", false));
    peer.bytes(&publish(1, "q", "behind it"));
    peer.send(2, consume("q", "d", false));
    peer.bytes(&publish(2, "q", "lost"));
    peer.session.fail_channel(
        ChannelId(2),
        ProtocolError::new(ReplyCode::NotImplemented, "x"),
        (60, 40),
    );
    // Nothing more is read, and the channel at fault does nothing more.
    assert!(!peer.session.wants_input());
    peer.expect(&["1 Consume"], &[]);
    peer.answer(1, consuming(7, "c", false));
    peer.expect(&["1 Publish", "CloseConnection"], &["1 ConsumeOk"]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 Close { reply_code: 540"]);

    let mut peer = Peer::with_channel();
    peer.send(1, consume("q", "c", false));
    peer.send(0, open());
    peer.expect(&["1 Consume"], &[]);
    peer.session.handle_timeout(Millis(30_000));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 Close { reply_code: 504"]);
}

#[test]
fn our_close_waits_for_close_ok_and_takes_nothing_else() {
    let mut peer = Peer::with_channel();
    peer.session.shutdown("Closed via management plugin");
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(
        &[],
        &["0 Close { reply_code: 320, reply_text: \"CONNECTION_FORCED - Closed via management plugin\", class_id: 0, method_id: 0 }"],
    );
    peer.bytes(&publish(1, "q", "x"));
    peer.bytes(&raw(3, 0, b"?"));
    peer.expect(&[], &[]);
    // A crossing close gets its close-ok.
    peer.send(0, close());
    peer.expect(&[], &["0 CloseOk"]);
    assert!(!peer.session.is_closed());
    peer.send(0, close_ok());
    assert!(peer.session.is_closed());
}

#[test]
fn close_ok_is_awaited_for_a_heartbeat_and_no_longer() {
    let mut peer = Peer::running();
    peer.session.shutdown("x");
    peer.session.answer(Answer::Done);
    assert_eq!(peer.session.poll_timeout(), Some(Millis(10_000)));
    peer.session.handle_timeout(Millis(10_000));
    assert!(peer.session.is_closed());
}

#[test]
fn a_broker_that_stops_does_not_wait_long_for_a_silent_client() {
    let mut peer = Peer::running();
    peer.session.stop();
    peer.session.answer(Answer::Done);
    assert_eq!(peer.session.poll_timeout(), Some(Millis(3_000)));
    peer.session.handle_timeout(Millis(3_000));
    assert!(peer.session.is_closed());
}

#[test]
fn hard_errors_close_the_connection_with_the_ids_of_the_method() {
    let queue_ok = AMQPClass::Queue(amq_protocol::protocol::queue::AMQPMethod::BindOk(
        amq_protocol::protocol::queue::BindOk {},
    ));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (
            frame(
                2,
                basic::AMQPMethod::Recover(basic::Recover { requeue: true }),
            ),
            "504, reply_text: \"CHANNEL_ERROR - expected 'channel.open'\", class_id: 60, method_id: 110",
        ),
        (
            frame(1, channel_open()),
            "504, reply_text: \"CHANNEL_ERROR - second 'channel.open' seen\", class_id: 20, method_id: 10",
        ),
        (
            frame(1, queue_ok),
            "503, reply_text: \"COMMAND_INVALID - unimplemented method\", class_id: 50, method_id: 21",
        ),
        (
            frame(1, open()),
            "503, reply_text: \"COMMAND_INVALID - unimplemented method\", class_id: 10, method_id: 40",
        ),
        (
            frame(0, open()),
            "504, reply_text: \"CHANNEL_ERROR - unexpected method in connection state running\", class_id: 10, method_id: 40",
        ),
        (raw(1, 1, &[0, 77, 0, 5]), "503…class_id: 77, method_id: 5"),
        (
            raw(1, 1, &[0, 60, 0, 200, 1, b'c', 0, 0, 0, 1, 0]),
            "503, reply_text: \"COMMAND_INVALID - unimplemented method\", class_id: 60, method_id: 200",
        ),
        (raw(8, 1, b""), "505…class_id: 0, method_id: 0"),
        (raw(2, 0, &[0; 14]), "505…class_id: 0, method_id: 0"),
        (raw(3, 0, b"x"), "505…class_id: 0, method_id: 0"),
        (
            raw(3, 1, b"x"),
            "505, reply_text: \"UNEXPECTED_FRAME - expected method frame, got non method frame instead\", class_id: 0, method_id: 0",
        ),
        (
            [publish_frame(1, "", "q", false), raw(3, 1, b"x")].concat(),
            "505, reply_text: \"UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead\", class_id: 60, method_id: 40",
        ),
        (
            [
                publish_frame(1, "", "q", false),
                header_frame(1, 1, &[0, 0]),
                raw(3, 1, b"xy"),
            ]
            .concat(),
            "501, reply_text: \"FRAME_ERROR - content body frame exceeds remaining content size\"",
        ),
        (
            frame(1, class::AMQPMethod::Flow(class::Flow { active: false })),
            "540, reply_text: \"NOT_IMPLEMENTED - active=false\", class_id: 20, method_id: 20",
        ),
        (
            frame(
                1,
                basic::AMQPMethod::Recover(basic::Recover { requeue: false }),
            ),
            "540, reply_text: \"NOT_IMPLEMENTED - requeue=false\", class_id: 60, method_id: 110",
        ),
    ];
    for (bytes, text) in table {
        let mut peer = Peer::with_channel();
        peer.bytes(&bytes);
        assert_lines(&peer.requests(), &["CloseConnection"]);
        peer.session.answer(Answer::Done);
        assert_lines(&peer.sent(), &[&format!("0 Close {{ reply_code: {text}")]);
    }
}

#[test]
fn when_framing_is_lost_the_rest_of_the_input_is_dropped() {
    let mut peer = Peer::running();
    let mut broken = raw(8, 0, b"");
    *broken.last_mut().unwrap() = 0;
    peer.bytes(&broken);
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 Close { reply_code: 501"]);
    peer.bytes(&frame(0, close_ok()));
    assert!(peer.input.is_empty());
    assert!(!peer.session.is_closed());
    peer.session.handle_timeout(Millis(3_000));
    assert!(peer.session.is_closed());
}

#[test]
fn heartbeats_go_out_when_nothing_else_does_and_silence_is_death() {
    let mut peer = Peer::running();
    peer.session.handle_timeout(Millis(5_000));
    assert_lines(&peer.sent(), &["0 heartbeat"]);
    peer.session.note_sent(Millis(5_000));
    peer.session.note_received(Millis(9_000));
    peer.session.note_sent(Millis(9_000));
    peer.session.handle_timeout(Millis(10_000));
    assert_lines(&peer.sent(), &[]);
    for at in [20_000, 30_000] {
        assert!(!peer.session.is_closed());
        peer.session.handle_timeout(Millis(at));
    }
    assert!(peer.session.is_closed());
    assert_eq!(
        peer.session.close_reason(),
        Some("missed heartbeats from client, timeout: 10s")
    );
}

#[test]
fn the_alarm_stops_only_connections_that_publish() {
    for (capable, blocked, unblocked) in [
        (
            true,
            &["0 Blocked { reason: \"low on memory\" }"][..],
            &["0 Unblocked"][..],
        ),
        (false, &[], &[]),
    ] {
        let mut peer = Peer::running_with(SessionConfig::default(), capable);
        peer.open_channel(1);
        peer.session.set_blocked(Some("low on memory"));
        peer.open_channel(2);
        assert!(peer.session.wants_input());
        peer.bytes(&[publish(1, "q", "x"), frame(1, channel_close())].concat());
        // Stopped at the header already; the rest waits in the input.
        peer.expect(&[], blocked);
        assert!(!peer.session.wants_input());
        peer.session.set_blocked(Some("low on disk"));
        peer.session.set_blocked(None);
        assert!(peer.session.wants_input());
        peer.bytes(b"");
        peer.expect(&["1 Publish", "1 Close"], unblocked);
    }
}
