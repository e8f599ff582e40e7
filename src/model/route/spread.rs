//! Exchanges that give a message to one of their bindings: by hash, or by chance.
//!
//! Need: one key goes to one target on every node, shares follow the weights, and a target that comes or goes moves no
//! more keys than its own share. Shape: rendezvous hashing, weighted: each target draws a number from the key, and the
//! largest wins; that needs no order of binding, which a snapshot does not keep. RabbitMQ's own placement is its
//! language's (spec §9.6), only stability and shares count. Limit: a lookup looks at every target.
//! Not here: what is hashed.

use std::collections::BTreeMap;

use super::{Target, Targets};
use crate::amqp::{AMQPValue, FieldTable, ProtocolError, RawProperties, ReplyCode};
use crate::base::Digest;
use crate::model::topology::table::binary;

/// What an exchange of type x-consistent-hash hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashOf {
    Key,
    Header(Box<[u8]>),
    MessageId,
    CorrelationId,
    Timestamp,
}

fn precondition(text: String) -> ProtocolError {
    ProtocolError::new(ReplyCode::PreconditionFailed, text)
}

fn word(arguments: &FieldTable, name: &str) -> Option<String> {
    match arguments.inner().get(name) {
        Some(AMQPValue::LongString(text)) => {
            Some(String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        _ => None,
    }
}

impl HashOf {
    /// From the exchange's arguments `hash-header` and `hash-property`.
    ///
    /// # Errors
    /// 406 for both at once, or a property that cannot be hashed.
    pub fn of(arguments: &FieldTable) -> Result<Self, ProtocolError> {
        let property = word(arguments, "hash-property");
        match (word(arguments, "hash-header"), property.as_deref()) {
            (None, None) => Ok(Self::Key),
            (Some(_), Some(_)) => Err(precondition(
                "hash-header and hash-property are mutually exclusive".to_owned(),
            )),
            (Some(header), None) => Ok(Self::Header(header.into_bytes().into())),
            (None, Some("message_id")) => Ok(Self::MessageId),
            (None, Some("correlation_id")) => Ok(Self::CorrelationId),
            (None, Some("timestamp")) => Ok(Self::Timestamp),
            (None, Some(other)) => Err(precondition(format!("Unsupported property: {other}"))),
        }
    }

    /// A number for the message; all without the value share one.
    pub fn number(&self, key: &[u8], properties: &RawProperties) -> u64 {
        let mut digest = Digest::default();
        match self {
            Self::Key => digest.bytes(key),
            Self::Header(name) => match properties.header(name) {
                Some(AMQPValue::LongString(text)) => digest.bytes(text.as_bytes()),
                Some(other) => digest.bytes(format!("{other:?}").as_bytes()),
                None => {}
            },
            Self::MessageId => digest.bytes(&properties.message_id().unwrap_or_default()),
            Self::CorrelationId => digest.bytes(&properties.correlation_id().unwrap_or_default()),
            Self::Timestamp => digest.word(properties.timestamp().unwrap_or_default()),
        }
        digest.value()
    }
}

/// Largest weight of a binding.
const WEIGHT_MAX: i64 = 10_000;

/// The weight a binding key stands for.
///
/// # Errors
/// 406 for what is no integer from 1 to [`WEIGHT_MAX`].
pub(crate) fn weight(key: &str) -> Result<u32, ProtocolError> {
    let number: i64 = key.parse().map_err(|_| {
        precondition(format!(
            "The binding key must be an integer: {}",
            binary(key.as_bytes())
        ))
    })?;
    if number < 1 {
        return Err(precondition(
            "The binding key must be greater than 0".to_owned(),
        ));
    }
    if number > WEIGHT_MAX {
        return Err(precondition(format!(
            "The binding key must not exceed {WEIGHT_MAX}"
        )));
    }
    Ok(u32::try_from(number).unwrap_or_default())
}

/// Targets with weights. Of several bindings to one target the lightest counts.
#[derive(Debug)]
pub(crate) struct Weighted {
    pub of: HashOf,
    targets: BTreeMap<Target, Vec<u32>>,
}

impl Weighted {
    pub fn new(of: HashOf) -> Self {
        Self {
            of,
            targets: BTreeMap::new(),
        }
    }

    pub fn insert(&mut self, target: &Target, key: &str) {
        let weights = self.targets.entry(target.clone()).or_default();
        weights.push(weight(key).unwrap_or(1));
        weights.sort_unstable();
    }

    pub fn remove(&mut self, target: &Target, key: &str) {
        let weight = weight(key).unwrap_or(1);
        if let Some(weights) = self.targets.get_mut(target) {
            if let Some(at) = weights.iter().position(|other| *other == weight) {
                weights.remove(at);
            }
            if weights.is_empty() {
                self.targets.remove(target);
            }
        }
    }

    /// The target of a message's number.
    pub fn pick(&self, number: u64) -> Option<&Target> {
        let draw = |target: &Target, weight: u32| {
            let mut digest = Digest::default();
            digest.word(number);
            match target {
                Target::Queue(id) => digest.word(id.0),
                Target::Exchange(name) => digest.bytes(name.as_bytes()),
            }
            // 53 bits, in (0, 1]: its logarithm, divided by the weight, is an exponential draw.
            let part = ((digest.value() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            part.ln() / f64::from(weight)
        };
        let drawn = self.targets.iter().filter_map(|(target, weights)| {
            let weight = *weights.first()?;
            Some((draw(target, weight), target))
        });
        drawn
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, target)| target)
    }
}

impl Targets {
    /// The binding at `number`, modulo how many there are.
    pub(super) fn nth(&self, number: u64) -> Option<&Target> {
        let all: u64 = self.0.iter().map(|(_, count)| u64::from(*count)).sum();
        let mut left = number.checked_rem(all)?;
        for (target, count) in &self.0 {
            match left.checked_sub(u64::from(*count)) {
                Some(rest) => left = rest,
                None => return Some(target),
            }
        }
        None
    }
}

/// One number for all keys of a message.
pub(super) fn hash(keys: &[&[u8]]) -> u64 {
    let mut digest = Digest::default();
    keys.iter().for_each(|key| digest.bytes(key));
    digest.value()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::base::QueueId;

    fn shares(weighted: &Weighted, keys: u64) -> BTreeMap<Target, u64> {
        let mut shares = BTreeMap::new();
        for key in 0..keys {
            let number = hash(&[&key.to_be_bytes()]);
            *shares
                .entry(weighted.pick(number).unwrap().clone())
                .or_default() += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut weighted = Weighted::new(HashOf::Key);
        for (id, weight) in [(1, "1"), (2, "2"), (3, "5")] {
            weighted.insert(&Target::Queue(QueueId(id)), weight);
        }
        let shares = shares(&weighted, 80_000);
        for (id, weight) in [(1, 1), (2, 2), (3, 5)] {
            let share = shares[&Target::Queue(QueueId(id))];
            let fair = weight * 10_000;
            assert!(share.abs_diff(fair) < fair / 10, "{id} has {share}");
        }
    }

    #[test]
    fn a_target_that_goes_moves_only_its_own_keys() {
        let mut weighted = Weighted::new(HashOf::Key);
        for id in 1..=5 {
            weighted.insert(&Target::Queue(QueueId(id)), "10");
        }
        let pick =
            |weighted: &Weighted, key: u64| weighted.pick(hash(&[&key.to_be_bytes()])).cloned();
        let before: Vec<_> = (0..1000).map(|key| pick(&weighted, key)).collect();
        let gone = Target::Queue(QueueId(3));
        weighted.remove(&gone, "10");
        for (key, before) in before.into_iter().enumerate() {
            if before != Some(gone.clone()) {
                assert_eq!(pick(&weighted, key as u64), before);
            }
        }
        assert_ne!(pick(&weighted, 1), Some(gone));
    }

    #[test]
    fn every_binding_has_its_turn_of_the_modulus() {
        let mut targets = Targets::default();
        let (one, two) = (Target::Queue(QueueId(1)), Target::Queue(QueueId(2)));
        assert_eq!(targets.nth(7), None);
        targets.insert(&one);
        targets.insert(&two);
        targets.insert(&two);
        let turns: Vec<_> = (0..4).map(|number| targets.nth(number)).collect();
        assert_eq!(turns, [Some(&one), Some(&two), Some(&two), Some(&one)]);
    }

    #[test]
    fn weights_are_positive_integers() {
        assert_eq!((weight("10"), weight("10000")), (Ok(10), Ok(10_000)));
        for (key, text) in [
            (
                "0",
                "406 PRECONDITION_FAILED - The binding key must be greater than 0",
            ),
            (
                "10001",
                "406 PRECONDITION_FAILED - The binding key must not exceed 10000",
            ),
            (
                "a",
                "406 PRECONDITION_FAILED - The binding key must be an integer: <<\"a\">>",
            ),
            (
                "",
                "406 PRECONDITION_FAILED - The binding key must be an integer: <<>>",
            ),
        ] {
            assert_eq!(weight(key).unwrap_err().to_string(), text);
        }
    }
}
