//! Samples over time, and what is shown of them: a rate always, and with a window that was asked for the samples in it.
//!
//! Shape: a ring per step; the finest ring that reaches far enough answers. Samples are taken when the wall clock is at a
//! multiple of their step, so those of several nodes can be added up. Bounds: the [`Tier`]s a history is made with.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::error::ApiError;
use super::request::Request;

/// Seconds between samples.
pub const EVERY_S: u64 = 5;
const POINTS_MAX: u64 = 500;

/// How far back samples of one step go.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    step_s: u64,
    kept: usize,
}

const fn tier(age_s: u64, step_s: u64) -> Tier {
    Tier {
        step_s,
        kept: (age_s / step_s) as usize,
    }
}

/// RabbitMQ's policy for totals.
pub const GLOBAL: &[Tier] = &[
    tier(605, 5),
    tier(3_660, 60),
    tier(29_400, 600),
    tier(86_400, 1_800),
];
/// RabbitMQ's policy for single objects.
pub const BASIC: &[Tier] = &[tier(605, 5), tier(3_600, 60)];

#[derive(Debug)]
struct Sample {
    /// ms since the epoch.
    at: u64,
    values: Box<[u64]>,
}

/// Samples of several counters.
#[derive(Debug)]
pub struct History {
    tiers: &'static [Tier],
    rings: Vec<VecDeque<Sample>>,
}

impl History {
    /// Nothing yet.
    pub fn new(tiers: &'static [Tier]) -> Self {
        let rings = tiers.iter().map(|_| VecDeque::new()).collect();
        Self { tiers, rings }
    }

    /// Takes a sample; `at` is a multiple of [`EVERY_S`] in ms.
    pub fn push(&mut self, at: u64, values: &[u64]) {
        for (tier, ring) in self.tiers.iter().zip(&mut self.rings) {
            if !at.is_multiple_of(tier.step_s * 1000) {
                continue;
            }
            if ring.len() >= tier.kept {
                ring.pop_front();
            }
            ring.push_back(Sample {
                at,
                values: values.into(),
            });
        }
    }

    /// Samples of one counter in a window, newest first.
    fn window(&self, column: usize, range: Range) -> Vec<(u64, u64)> {
        let reaches = |tier: &Tier| tier.step_s * tier.kept as u64 >= range.age;
        let at = self.tiers.iter().position(reaches);
        let at = at.unwrap_or(self.tiers.len().saturating_sub(1));
        let Some(ring) = self.rings.get(at) else {
            return Vec::new();
        };
        let step = range.incr.next_multiple_of(self.tiers[at].step_s) * 1000;
        let oldest = ring
            .back()
            .map_or(0, |newest| newest.at.saturating_sub(range.age * 1000));
        let samples = ring.iter().rev();
        let samples = samples.take_while(|sample| sample.at >= oldest);
        let samples = samples.filter(|sample| sample.at.is_multiple_of(step));
        samples
            .filter_map(|sample| Some((sample.at, *sample.values.get(column)?)))
            .collect()
    }
}

/// A window that was asked for, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    age: u64,
    incr: u64,
}

/// The windows of a request, by what they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Queue lengths.
    pub lengths: Option<Range>,
    /// Messages.
    pub msg_rates: Option<Range>,
    /// Bytes.
    pub data_rates: Option<Range>,
    /// Nodes.
    pub node_stats: Option<Range>,
}

impl Range {
    fn of(request: &Request, name: &str) -> Result<Option<Self>, ApiError> {
        let part = |end: &str| request.parameter(&format!("{name}_{end}"));
        let (Some(age), Some(incr)) = (part("age"), part("incr")) else {
            return Ok(None);
        };
        let invalid =
            || ApiError::bad_request(format!("Invalid range parameters: age {age}, incr {incr}"));
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let age_s = number(age).ok_or_else(invalid)?;
        let incr_s = number(incr).ok_or_else(invalid)?;
        match age_s / incr_s <= POINTS_MAX && age_s <= u64::from(u32::MAX) {
            true => Ok(Some(Self {
                age: age_s,
                incr: incr_s.min(u64::from(u32::MAX)),
            })),
            false => Err(invalid()),
        }
    }

    fn to_json(range: Option<Self>) -> Value {
        range.map_or(Value::Null, |range| json!([range.age, range.incr]))
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |at: usize| value.get(at)?.as_u64().filter(|number| *number > 0);
        Some(Self {
            age: number(0)?,
            incr: number(1)?,
        })
    }
}

impl Ranges {
    /// Those of a request.
    ///
    /// # Errors
    /// 400 if one makes no sense.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        Ok(Self {
            lengths: Range::of(request, "lengths")?,
            msg_rates: Range::of(request, "msg_rates")?,
            data_rates: Range::of(request, "data_rates")?,
            node_stats: Range::of(request, "node_stats")?,
        })
    }

    /// As a question to another node carries them.
    pub fn to_json(self) -> Value {
        [
            self.lengths,
            self.msg_rates,
            self.data_rates,
            self.node_stats,
        ]
        .map(Range::to_json)
        .to_vec()
        .into()
    }

    /// From such a question.
    pub fn from_json(value: &Value) -> Self {
        let [lengths, msg_rates, data_rates, node_stats] =
            [0, 1, 2, 3].map(|at| value.get(at).and_then(Range::from_json));
        Self {
            lengths,
            msg_rates,
            data_rates,
            node_stats,
        }
    }
}

fn per_second(new: (u64, u64), old: (u64, u64)) -> f64 {
    let ms = new.0.saturating_sub(old.0).max(1);
    (new.1 as f64 - old.1 as f64) * 1000.0 / ms as f64
}

/// `X_details`: the rate, and with a window the samples in it; what is `now`, at that time (ms), where there are none yet:
/// clients take the newest sample without a look at how many there are.
pub fn details(
    rate: f64,
    history: Option<(&History, usize)>,
    range: Option<Range>,
    now: (u64, u64),
) -> Value {
    let mut details = json!({"rate": rate});
    let Some(range) = range else {
        return details;
    };
    let mut points =
        history.map_or_else(Vec::new, |(history, column)| history.window(column, range));
    if points.is_empty() {
        points.push((now.0 - now.0 % (range.incr.max(EVERY_S) * 1000), now.1));
    }
    let sum: u64 = points.iter().map(|(_, value)| value).sum();
    details["avg"] = json!(sum as f64 / points.len() as f64);
    details["avg_rate"] = match (points.first(), points.last()) {
        (Some(new), Some(old)) if points.len() > 1 => json!(per_second(*new, *old)),
        _ => json!(0.0),
    };
    details["samples"] = points
        .iter()
        .map(|(at, value)| json!({"timestamp": at, "sample": value}))
        .collect();
    details
}

/// Adds figures of another node to those of this one: numbers, objects by key, samples by their time.
pub fn add(sum: &mut Value, more: &Value) {
    match (sum, more) {
        (Value::Object(sum), Value::Object(more)) => {
            for (key, value) in more {
                match sum.get_mut(key) {
                    Some(known) => add(known, value),
                    None => {
                        sum.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(sum), Value::Array(more)) => add_samples(sum, more),
        (sum @ Value::Number(_), Value::Number(_)) => {
            *sum = match (sum.as_u64(), more.as_u64()) {
                (Some(a), Some(b)) => json!(a.saturating_add(b)),
                _ => json!(sum.as_f64().unwrap_or(0.0) + more.as_f64().unwrap_or(0.0)),
            };
        }
        _ => {}
    }
}

fn add_samples(sum: &mut [Value], more: &[Value]) {
    for sample in more {
        let same = |known: &&mut Value| known["timestamp"] == sample["timestamp"];
        if let Some(known) = sum.iter_mut().find(same) {
            let both = [&known["sample"], &sample["sample"]].map(|value| value.as_u64());
            known["sample"] = json!(both.into_iter().flatten().sum::<u64>());
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn filled(seconds: u64) -> History {
        let mut history = History::new(GLOBAL);
        for at in (0..seconds).step_by(5) {
            history.push(at * 1000, &[at, at * 10]);
        }
        history
    }

    #[test]
    fn a_window_has_the_newest_sample_first_at_the_steps_asked_for() {
        let history = filled(1_000);
        let window = history.window(1, Range { age: 60, incr: 15 });
        let times: Vec<u64> = window.iter().map(|(at, _)| *at / 1000).collect();
        assert_eq!(times, [990, 975, 960, 945]);
        assert!(window.iter().all(|(at, value)| at / 100 == *value));
    }

    #[test]
    fn a_long_window_comes_from_the_ring_that_reaches_so_far_and_memory_is_bounded() {
        let history = filled(100_000);
        let hour = history.window(
            0,
            Range {
                age: 3_600,
                incr: 60,
            },
        );
        assert!((59..=61).contains(&hour.len()), "{}", hour.len());
        let day = history.window(
            0,
            Range {
                age: 86_400,
                incr: 1_800,
            },
        );
        assert!((47..=49).contains(&day.len()), "{}", day.len());
        let kept: usize = history.rings.iter().map(VecDeque::len).sum();
        assert!(kept <= 121 + 61 + 49 + 48, "{kept}");
    }

    #[test]
    fn a_window_without_samples_shows_what_is_now() {
        let (range, empty) = (Range { age: 60, incr: 30 }, History::new(BASIC));
        for history in [None, Some((&empty, 0))] {
            let shown = details(0.0, history, Some(range), (100_700, 7));
            assert_eq!(
                shown["samples"],
                json!([{"timestamp": 90_000, "sample": 7}])
            );
            assert_eq!(shown["avg"], 7.0);
        }
        let filled = filled(1_000);
        let shown = details(0.0, Some((&filled, 1)), Some(range), (1_000_000, 7));
        assert_eq!(
            shown["samples"][0],
            json!({"timestamp": 990_000, "sample": 9_900})
        );
    }

    #[test]
    fn figures_of_two_nodes_add_up_with_their_samples() {
        let node = |value: u64, at: u64| {
            json!({"publish": value, "publish_details": {"rate": 1.5, "samples": [
                {"timestamp": at, "sample": value}, {"timestamp": at - 5, "sample": value - 1}]}})
        };
        let mut sum = node(10, 100);
        add(&mut sum, &node(5, 100));
        assert_eq!(sum["publish"], 15);
        assert_eq!(sum["publish_details"]["rate"], 3.0);
        assert_eq!(sum["publish_details"]["samples"][1]["sample"], 13);
        add(&mut sum, &node(7, 105));
        assert_eq!(sum["publish_details"]["samples"][0]["sample"], 15 + 6);
    }

    #[test]
    fn windows_survive_the_way_to_another_node() {
        let ranges = Ranges {
            lengths: Some(Range { age: 60, incr: 5 }),
            node_stats: Some(Range { age: 3, incr: 1 }),
            ..Ranges::default()
        };
        assert_eq!(Ranges::from_json(&ranges.to_json()), ranges);
        assert_eq!(Ranges::from_json(&json!("nonsense")), Ranges::default());
    }
}
