use super::*;
use proptest::prelude::*;

fn ends(from: &str, to: &str) -> Step {
    Step::Done(Said::Ends(from.parse().unwrap(), to.parse().unwrap()))
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn a_line_names_both_ends() {
    let known = ends("203.0.113.7:56324", "192.0.2.1:5672");
    let six = ends("[2001:db8::7]:1", "[::1]:5672");
    let cases: &[(&str, Result<Step, &str>)] = &[
        ("PROXY TCP4 203.0.113.7 192.0.2.1 56324 5672\r\n", Ok(known)),
        ("PROXY TCP6 2001:db8::7 ::1 1 5672\r\n", Ok(six)),
        ("PROXY UNKNOWN\r\n", Ok(Step::Done(Said::Itself))),
        (
            "PROXY UNKNOWN ff:: anything at all\r\n",
            Ok(Step::Done(Said::Itself)),
        ),
        ("PROXY TCP4 203.0.113.7", Ok(Step::More(1))),
        ("PRO", Ok(Step::More(12))),
        (
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
            Err("two ports"),
        ),
        (
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 5672 1\r\n",
            Err("two ports"),
        ),
        (
            "PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n",
            Err("two ports"),
        ),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Err("an address")),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Err("an address")),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", Err("a port")),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Err("a port")),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Err("a port")),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Err("is expected")),
        ("PROXYTCP4", Err("does not begin")),
        ("AMQP\0\0\x09\x01", Err("does not begin")),
    ];
    for (text, want) in cases {
        match (step(text.as_bytes()), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, *want, "{text}"),
            (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{text}: {got}"),
            (got, want) => panic!("{text}: wanted {want:?}, got {got:?}"),
        }
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(LINE_MAX));
    assert!(step(endless.as_bytes()).is_err());
}

#[test]
fn a_binary_header_names_both_ends_and_its_extra_fields_are_passed_over() {
    let four = [203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x16, 0x28];
    let mut extra = four.to_vec();
    extra.extend([0x03, 0, 4, 1, 2, 3, 4]);
    let mut six = vec![0x20, 0x01, 0x0d, 0xb8];
    six.resize(15, 0);
    six.push(7);
    six.extend(Ipv6Addr::LOCALHOST.octets());
    six.extend([0, 1, 0x16, 0x28]);
    let known = ends("203.0.113.7:56324", "192.0.2.1:5672");
    let itself = Step::Done(Said::Itself);
    let cases: &[(Vec<u8>, Result<Step, &str>)] = &[
        (v2(0x21, 0x11, &four), Ok(known)),
        (v2(0x21, 0x11, &extra), Ok(known)),
        (
            v2(0x21, 0x21, &six),
            Ok(ends("[2001:db8::7]:1", "[::1]:5672")),
        ),
        (v2(0x20, 0x00, &[]), Ok(itself)),
        (v2(0x20, 0x11, &four), Ok(itself)),
        (v2(0x21, 0x00, &[]), Ok(itself)),
        (v2(0x21, 0x11, &four[..11]), Err("cut short")),
        (v2(0x21, 0x13, &four), Err("family")),
        (v2(0x22, 0x11, &four), Err("command")),
        (v2(0x11, 0x11, &four), Err("command")),
        (v2(0x21, 0x11, &[0; 5000]), Err("too long")),
        (v2(0x21, 0x11, &four)[..20].to_vec(), Ok(Step::More(8))),
        (SIGNATURE[..5].to_vec(), Ok(Step::More(11))),
        (SIGNATURE.to_vec(), Ok(Step::More(4))),
    ];
    for (bytes, want) in cases {
        match (step(bytes), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, *want, "{bytes:?}"),
            (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{bytes:?}: {got}"),
            (got, want) => panic!("{bytes:?}: wanted {want:?}, got {got:?}"),
        }
    }
}

proptest! {
    #[test]
    fn any_addresses_come_back_and_nothing_behind_the_header_is_read(
        from in any::<(Ipv6Addr, u16)>(), to in any::<(Ipv6Addr, u16)>(),
        tail in prop::collection::vec(any::<u8>(), 0..64), binary in any::<bool>(), four in any::<bool>(),
    ) {
        let four = |(ip, port): (Ipv6Addr, u16)| {
            let octets = ip.octets();
            let v4 = IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]));
            SocketAddr::new(if four { v4 } else { IpAddr::V6(ip) }, port)
        };
        let (from, to) = (four(from), four(to));
        let mut bytes = if binary {
            let mut rest = Vec::new();
            for end in [from, to] {
                match end.ip() {
                    IpAddr::V4(ip) => rest.extend(ip.octets()),
                    IpAddr::V6(ip) => rest.extend(ip.octets()),
                }
            }
            rest.extend(from.port().to_be_bytes());
            rest.extend(to.port().to_be_bytes());
            v2(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &rest)
        } else {
            let kind = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {kind} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
        };
        let header = bytes.len();
        bytes.extend(&tail);
        // Taken by the steps asked for.
        let mut read = SIGNATURE.len();
        loop {
            prop_assert!(read <= header);
            match step(&bytes[..read]).unwrap() {
                Step::More(count) => read += count,
                Step::Done(said) => {
                    prop_assert_eq!(said, Said::Ends(from, to));
                    prop_assert_eq!(read, header);
                    break;
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_header_an_error_or_too_few(bytes in prop::collection::vec(any::<u8>(), 0..300), line in any::<bool>()) {
        let mut all = if line { WORD.to_vec() } else { SIGNATURE.to_vec() };
        all.extend(bytes);
        if let Ok(Step::More(count)) = step(&all) {
            prop_assert!(count > 0 && all.len() + count <= HEADER_MAX);
        }
    }
}
