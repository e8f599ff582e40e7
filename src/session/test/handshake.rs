use super::*;

#[test]
fn any_protocol_but_0_9_1_and_0_9_is_told_what_we_speak() {
    for (header, served) in [
        (&b"AMQP\0\0\x09\x01"[..], true),
        (b"AMQP\x01\x01\0\x09", true),
        (b"AMQP\x03\x01\0\0", false),
        (b"AMQP\0\x01\0\0", false),
        (b"GET / HT", false),
    ] {
        let mut peer = Peer::new(SessionConfig::default());
        peer.bytes(header);
        assert_eq!(peer.session.is_closed(), !served);
        if served {
            peer.expect(&[], &["0 Start { version_major: 0, version_minor: 9"]);
        } else {
            peer.expect(&[], &["b\"AMQP\\0\\0\\t\\x01\""]);
        }
    }
}

#[test]
fn a_client_that_does_all_right_gets_an_open_connection() {
    let mut peer = Peer::new(SessionConfig::default());
    peer.bytes(HEADER);
    peer.expect(
        &[],
        &["product…RabbitMQ…mechanisms: \"PLAIN AMQPLAIN\", locales: \"en_US\""],
    );
    peer.send(0, start_ok("PLAIN", "\0guest\0secret", true));
    peer.expect(
        &["Login { mechanism: \"PLAIN\", credentials: Password { user: \"guest\", .. } }"],
        &[],
    );
    assert!(!peer.session.wants_input(), "nothing is read meanwhile");
    peer.session.answer(logged_in());
    peer.expect(
        &[],
        &["0 Tune { channel_max: 2047, frame_max: 131072, heartbeat: 60 }"],
    );
    let mut pipelined = frame(0, tune_ok(100, 4096, 0));
    pipelined.extend(frame(0, open()));
    peer.bytes(&pipelined);
    peer.expect(&["Open { vhost: \"/\" }"], &[]);
    peer.session.answer(Answer::Opened);
    peer.expect(&[], &["0 OpenOk"]);
    assert_eq!(peer.session.name(), Some("test"));
    assert_eq!(peer.session.user(), Some("guest"));
    assert_eq!(peer.session.vhost(), Some("/"));
    assert_eq!(peer.session.frame_max(), 4096);
    assert_eq!(peer.session.poll_timeout(), None, "no heartbeat was wanted");
}

#[test]
fn all_capabilities_are_true_in_a_nested_table() {
    let config = SessionConfig::default();
    match config.server_properties.inner().get("capabilities") {
        Some(AMQPValue::FieldTable(table)) => {
            assert_eq!(table.inner().len(), 9);
            assert!(
                table
                    .inner()
                    .values()
                    .all(|v| *v == AMQPValue::Boolean(true))
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_login_is_told_only_to_clients_that_can_take_it() {
    for (capable, sent) in [
        (
            true,
            &[
                "0 Close { reply_code: 403, reply_text: \"ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.\", class_id: 0, method_id: 0 }",
            ][..],
        ),
        (false, &[]),
    ] {
        let mut peer = Peer::new(SessionConfig::default());
        peer.bytes(HEADER);
        peer.sent();
        peer.send(0, start_ok("PLAIN", "\0guest\0wrong", capable));
        peer.requests();
        peer.session.answer(Answer::LoginRefused);
        peer.expect(&[], sent);
        assert_eq!(peer.session.poll_timeout(), Some(Millis(3_000)));
        peer.session.handle_timeout(Millis(2_999));
        assert!(!peer.session.is_closed());
        peer.session.handle_timeout(Millis(3_000));
        assert!(peer.session.is_closed());
    }
}

#[test]
fn every_other_fault_before_open_is_a_silent_close_after_the_brake() {
    let tuned = |channel_max, frame_max| vec![tune_ok(channel_max, frame_max, 60)];
    let table: Vec<(Vec<conn::AMQPMethod>, &str)> = vec![
        (
            vec![start_ok("EXTERNAL", "", true)],
            "503 COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'",
        ),
        (
            vec![start_ok("PLAIN", "x\0guest\0guest", true)],
            "502 SYNTAX_ERROR",
        ),
        (vec![open()], "504 CHANNEL_ERROR"),
        (
            tuned(2047, 4095),
            "530 NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            tuned(2047, 131_073),
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            tuned(0, 131_072),
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
        (
            tuned(2048, 131_072),
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
    ];
    for (methods, reason) in table {
        let mut peer = Peer::new(SessionConfig::default());
        peer.bytes(HEADER);
        if matches!(methods[0], conn::AMQPMethod::TuneOk(_)) {
            peer.send(0, start_ok("PLAIN", "\0g\0g", true));
            peer.session.answer(logged_in());
        }
        peer.sent();
        for method in methods {
            peer.send(0, method);
        }
        assert_lines(&peer.sent(), &[]);
        assert!(
            matches(peer.session.close_reason().unwrap(), reason),
            "{:?}",
            peer.session.close_reason()
        );
        assert!(peer.session.wants_input(), "input is drained, not read");
        peer.bytes(b"anything");
        assert!(peer.input.is_empty());
        peer.session.handle_timeout(Millis(3_000));
        assert!(peer.session.is_closed());
    }
}

#[test]
fn a_vhost_that_is_refused_closes_with_the_ids_of_open() {
    let mut peer = Peer::new(SessionConfig::default());
    peer.bytes(HEADER);
    peer.send(0, start_ok("PLAIN", "\0g\0g", true));
    peer.session.answer(logged_in());
    peer.send(0, tune_ok(10, 8192, 60));
    peer.send(0, open());
    peer.requests();
    peer.sent();
    peer.session.answer(Answer::Failed(ProtocolError::new(
        ReplyCode::NotAllowed,
        "vhost / not found",
    )));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(
        &[],
        &["0 Close { reply_code: 530, reply_text: \"NOT_ALLOWED - vhost / not found\", class_id: 10, method_id: 40 }"],
    );
}

#[test]
fn a_handshake_that_takes_too_long_is_cut() {
    let mut peer = Peer::new(SessionConfig::default());
    peer.bytes(b"AMQP");
    assert_eq!(peer.session.poll_timeout(), Some(Millis(10_000)));
    peer.session.handle_timeout(Millis(10_000));
    assert!(peer.session.is_closed());
    assert_eq!(peer.session.poll_timeout(), None);
}

#[test]
fn update_secret_waits_for_the_broker() {
    let mut peer = Peer::running();
    let update = || {
        conn::AMQPMethod::UpdateSecret(conn::UpdateSecret {
            new_secret: LongString::from("s"),
            reason: "r".into(),
        })
    };
    peer.send(0, update());
    peer.expect(&["UpdateSecret { secret: b\"s\" }"], &[]);
    assert!(!peer.session.wants_input());
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["0 UpdateSecretOk"]);
    peer.send(0, update());
    peer.session.answer(Answer::Failed(ProtocolError::new(
        ReplyCode::NotAllowed,
        "Secret update failed",
    )));
    assert_eq!(peer.requests().len(), 2);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["530…class_id: 10, method_id: 70"]);
}
