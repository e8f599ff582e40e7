//! Certificates of this node's listeners: which there are, and which end soon.
//!
//! As RabbitMQ's `rabbit_mgmt_wm_health_check_certificate_expiration`, but of what is served, not of what the files hold by now.

use serde_json::{Value, json};

use super::error::ApiError;
use super::health::{failed, ok};
use super::{Answer, Api, Context, Listener};
use crate::base::{Clock, SystemClock, date_and_time};
use crate::broker::tls::CertificateFacts;

/// As RabbitMQ counts: a month has 30 days, a year 365.
fn days(unit: &str) -> Option<u64> {
    match unit {
        "days" => Some(1),
        "weeks" => Some(7),
        "months" => Some(30),
        "years" => Some(365),
        _ => None,
    }
}

pub fn check(context: &Context, within: &str, unit: &str) -> Answer {
    let count: u32 = within
        .parse()
        .map_err(|_| ApiError::bad_request(format!("Invalid expiration value: {within}")))?;
    let days = days(unit)
        .ok_or_else(|| ApiError::bad_request(format!("Time unit not recognised: {unit}")))?;
    let ahead_s = u64::from(count) * days * 86_400;
    let until_s = (SystemClock.now().0 / 1000).saturating_add(ahead_s);
    let expired: Vec<Value> = expiring(&context.api, i64::try_from(until_s).unwrap_or(i64::MAX));
    match expired.is_empty() {
        true => ok(json!({})),
        false => failed("Certificates expiring", json!({"expired": expired})),
    }
}

/// Listeners with certificates that end before a moment: seconds since 1970.
fn expiring(api: &Api, until_s: i64) -> Vec<Value> {
    let ends = |facts: &[CertificateFacts]| -> Vec<String> {
        let soon = facts.iter().filter(|one| one.ends_s < until_s);
        soon.map(|one| date_and_time(u64::try_from(one.ends_s).unwrap_or_default()))
            .collect()
    };
    let rows = api.listeners.iter().filter_map(|listener| {
        let certificates = listener.tls.as_ref()?.certificates();
        let own = ends(&certificates.own.1);
        let authorities = certificates.authorities.as_ref();
        let theirs = authorities
            .map(|(_, facts)| ends(facts))
            .unwrap_or_default();
        if own.is_empty() && theirs.is_empty() {
            return None;
        }
        let mut row = place(api, listener);
        row["certfile"] = json!(certificates.own.0);
        row["cacertfile"] = json!(authorities.map_or_else(|| "".into(), |(path, _)| path.clone()));
        row["certfile_expires_on"] = json!(own);
        row["cacertfile_expires_on"] = json!(theirs);
        Some(row)
    });
    rows.collect()
}

fn place(api: &Api, listener: &Listener) -> Value {
    json!({
        "node": api.names.node,
        "protocol": listener.protocol,
        "interface": listener.address.ip().to_string(),
        "port": listener.address.port(),
    })
}

/// Every certificate of every listener, for whoever runs the node.
pub fn all(api: &Api) -> Vec<Value> {
    let shown = |facts: &[CertificateFacts]| -> Value {
        let rows = facts.iter().map(|one| {
            json!({
                "subject": one.subject,
                "issuer": one.issuer,
                "serial": one.serial,
                "validity": one.validity,
            })
        });
        rows.collect()
    };
    let rows = api.listeners.iter().filter_map(|listener| {
        let certificates = listener.tls.as_ref()?.certificates();
        let mut row = place(api, listener);
        row["certfile"] = json!(certificates.own.0);
        row["certificates"] = shown(&certificates.own.1);
        if let Some((path, facts)) = &certificates.authorities {
            row["cacertfile"] = json!(path);
            row["authorities"] = shown(facts);
        }
        Some(row)
    });
    rows.collect()
}
