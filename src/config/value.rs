//! Values: numbers, sizes with units, switches, addresses. Each reader answers what it expected when it fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{LogLevel, Threshold};

/// What a value should have been.
pub type Expected = String;

/// `true`/`false`, also `on`/`off` and `yes`/`no`.
///
/// # Errors
/// Anything else.
pub fn switch(value: &str) -> Result<bool, Expected> {
    match value {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// A whole number from `min` to `max`.
///
/// # Errors
/// Not a number, or out of the range.
pub fn number(value: &str, min: u64, max: u64) -> Result<u64, Expected> {
    let bound = if max == u64::MAX {
        format!("from {min}")
    } else {
        format!("{min} to {max}")
    };
    let read: Option<u64> = value.parse().ok();
    read.filter(|n| (min..=max).contains(n))
        .ok_or_else(|| format!("a whole number, {bound}"))
}

/// As [`number`], in 32 bits.
///
/// # Errors
/// As [`number`].
pub fn number_u32(value: &str, min: u32) -> Result<u32, Expected> {
    let n = number(value, u64::from(min), u64::from(u32::MAX))?;
    u32::try_from(n).map_err(|_| "a smaller number".to_owned())
}

/// As [`number`], from 0, in 16 bits.
///
/// # Errors
/// As [`number`].
pub fn number_u16(value: &str) -> Result<u16, Expected> {
    value
        .parse()
        .map_err(|_| "a whole number, 0 to 65535".to_owned())
}

/// `infinity`, or a number from 1.
///
/// # Errors
/// Anything else.
pub fn limit(value: &str) -> Result<Option<u32>, Expected> {
    if value == "infinity" {
        return Ok(None);
    }
    number_u32(value, 1)
        .map(Some)
        .map_err(|e| format!("{e}, or infinity"))
}

/// Bytes: a number with an optional unit. `kB`, `MB`, `GB`, `TB` are powers of ten; `k`, `KiB`, `MiB`, `GiB`, `TiB` and bare
/// letters are powers of two, as in RabbitMQ.
///
/// # Errors
/// Another form, or more than 64 bits.
pub fn bytes(value: &str) -> Result<u64, Expected> {
    let expected = || "a size such as 1048576, 512MiB, 2GB".to_owned();
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (count, unit) = value.split_at(digits);
    let count: u64 = count.parse().map_err(|_| expected())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(expected()),
    };
    count.checked_mul(factor).ok_or_else(expected)
}

/// Bytes within a range.
///
/// # Errors
/// As [`bytes`], or out of the range.
pub fn bytes_within(value: &str, min: u64, max: u64) -> Result<u64, Expected> {
    let n = bytes(value)?;
    if (min..=max).contains(&n) {
        Ok(n)
    } else {
        Err(format!("a size of {min} to {max} bytes"))
    }
}

/// Milliseconds, from `min`: a number, or numbers with units from weeks to milliseconds (`1w2d3h4m5s6ms`), as in RabbitMQ.
///
/// # Errors
/// Another form, fewer than `min`, or more than 32 bits.
pub fn duration_ms(value: &str, min: u64) -> Result<u64, Expected> {
    let most = u64::from(u32::MAX);
    let expected = || format!("a duration such as 90s, 1h30m or 500ms, of {min} to {most} ms");
    let (mut rest, mut sum) = (value, 0_u64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let (count, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let count: u64 = count.parse().map_err(|_| expected())?;
        let end = tail.find(|c: char| c.is_ascii_digit());
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let unit = match unit {
            "" | "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(expected()),
        };
        let part = count.checked_mul(unit);
        let all = part.and_then(|part| sum.checked_add(part));
        (sum, rest) = (all.ok_or_else(expected)?, tail);
    }
    match !value.is_empty() && (min..=most).contains(&sum) {
        true => Ok(sum),
        false => Err(expected()),
    }
}

/// A part of memory, more than 0 and at most `max`.
///
/// # Errors
/// Not a number, or out of the range.
pub fn part(value: &str, max: f64) -> Result<Threshold, Expected> {
    let read: Option<f64> = value.parse().ok();
    let within = read.filter(|part| part.is_finite() && *part > 0.0 && *part <= max);
    within
        .map(Threshold::Relative)
        .ok_or_else(|| format!("a number more than 0, at most {max}"))
}

/// A [`Threshold`] as the command line hands it on: `relative 0.4` (from 0 to `max`) or `absolute 1GB`.
///
/// # Errors
/// Another form.
pub fn threshold(value: &str, max: f64) -> Result<Threshold, Expected> {
    match value.split_once(' ') {
        Some(("absolute", size)) => bytes(size).map(Threshold::Absolute),
        Some(("relative", part)) => {
            let read: Option<f64> = part.parse().ok();
            let within = read.filter(|part| (0.0..=max).contains(part));
            let expected = || format!("a number from 0 to {max}");
            within.map(Threshold::Relative).ok_or_else(expected)
        }
        _ => Err("relative or absolute, and a value".to_owned()),
    }
}

/// A port, `ip:port`, or `localhost:port`. A port alone listens on `ip`.
///
/// # Errors
/// Anything else, names included: which address a name means is not decided here.
pub fn address(value: &str, ip: IpAddr) -> Result<SocketAddr, Expected> {
    if let Ok(port) = value.parse::<u16>() {
        return Ok(SocketAddr::new(ip, port));
    }
    if let Some(port) = value
        .strip_prefix("localhost:")
        .and_then(|p| p.parse().ok())
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    // RabbitMQ's tutorials write `:::5672` for the unspecified IPv6 address.
    if let Some((ip, port)) = value.rsplit_once(':')
        && let (Ok(ip), Ok(port)) = (ip.parse::<IpAddr>(), port.parse())
    {
        return Ok(SocketAddr::new(ip, port));
    }
    value
        .parse()
        .map_err(|_| "a port, or ip:port such as 127.0.0.1:5672 or [::1]:5672".to_owned())
}

/// A log level by RabbitMQ's names.
///
/// # Errors
/// Anything else.
pub fn level(value: &str) -> Result<LogLevel, Expected> {
    Ok(match value {
        "debug" => LogLevel::Debug,
        "info" | "notice" => LogLevel::Info,
        "warning" | "warn" => LogLevel::Warning,
        "error" | "critical" => LogLevel::Error,
        "none" => LogLevel::None,
        _ => return Err("debug, info, notice, warning, error, critical or none".to_owned()),
    })
}

/// One of `words`.
///
/// # Errors
/// Another word.
pub fn one_of(value: &str, words: &[&str]) -> Result<String, Expected> {
    if words.contains(&value) {
        Ok(value.to_owned())
    } else {
        Err(words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_rabbitmqs_units() {
        let cases = [
            ("0", Some(0)),
            ("1048576", Some(1_048_576)),
            ("1k", Some(1024)),
            ("2kB", Some(2000)),
            ("2KB", Some(2000)),
            ("2KiB", Some(2048)),
            ("50MB", Some(50_000_000)),
            ("1 MiB", Some(1 << 20)),
            ("2GB", Some(2_000_000_000)),
            ("2GiB", Some(2 << 30)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("-1", None),
            ("1.5GB", None),
            ("MB", None),
            ("1XB", None),
            ("99999999999999999999", None),
            ("99999999999TB", None),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn durations_are_milliseconds_or_have_units() {
        let cases = [
            ("1", Some(1)),
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("1w2d3h4m5s6ms", Some(788_645_006)),
            ("0", None),
            ("", None),
            ("s", None),
            ("1x", None),
            ("-1s", None),
            ("1 s", None),
            ("8w", None),
            ("99999999999999999999s", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration_ms(text, 1).ok(), want, "{text}");
        }
    }

    #[test]
    fn addresses_are_a_port_or_an_ip_with_a_port() {
        let cases = [
            ("5672", Some("[::]:5672")),
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("localhost:7", Some("127.0.0.1:7")),
            ("[::1]:5672", Some("[::1]:5672")),
            (":::5672", Some("[::]:5672")),
            ("70000", None),
            ("example.org:5672", None),
            ("127.0.0.1", None),
            ("", None),
        ];
        for (text, want) in cases {
            let got = address(text, super::super::ANY).ok().map(|a| a.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_part_of_memory_is_positive_and_bounded() {
        for bad in ["0", "-0.1", "1.01", "NaN", "inf", "x"] {
            assert!(part(bad, 1.0).is_err(), "{bad}");
        }
        assert_eq!(part("0.4", 1.0), Ok(Threshold::Relative(0.4)));
    }
}
