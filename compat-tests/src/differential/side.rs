//! One broker's run of a program.
//!
//! Need: what a broker does to a program, as text that can be compared with another broker's.
//! Shape: [`Side::perform`] sends a step and awaits its answer; [`Side::settle`] makes sure that all of it has happened (a
//! round trip on every channel, a passive declaration of every queue); [`Side::view`] is what was seen: streams of text,
//! and what each queue says of itself.
//! Streams: answers of a channel in order; deliveries of each consumer in order; confirms by number. Between two
//! streams no order is compared, because AMQP promises none.
//! Checked here, on each side alone: delivery tags count up by one; a consumer's deliveries come behind its consume-ok.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::client::{Address, Client, Incoming};
use super::known;
use super::method::{Method, Properties};
use super::names::Names;
use super::observer::Observer;
use super::program::{Act, Pick, Place, Step, Verdict, body_text};
use super::value::Value;

/// How long a broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a confirm is awaited before the program goes on.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// What was seen of a broker.
pub type View = BTreeMap<String, Vec<String>>;

#[derive(Clone)]
struct Held {
    tag: u64,
    /// Step and consumer: deliveries of one step are ordered by consumer, since brokers may interleave them differently.
    order: (usize, String),
}

#[derive(Default)]
struct Channel {
    tags_given: u64,
    held: Vec<Held>,
    settled_in_tx: Vec<Held>,
    settled_last: Option<u64>,
    /// Consumer tag to whether it settles by itself.
    consumers: BTreeMap<String, bool>,
    /// `no-ack` and tag of the consume or get that is unanswered.
    asked: (bool, String),
    published: Option<u64>,
    confirms: BTreeMap<u64, bool>,
    in_tx: bool,
}

struct Link {
    client: Client,
    channels: BTreeMap<u16, Channel>,
    ended: bool,
}

/// A broker in the middle of a program.
pub struct Side {
    address: Address,
    names: Names,
    links: [Option<Link>; 2],
    observer: Observer,
    streams: View,
    step: usize,
}

impl Side {
    /// A broker before the first step.
    ///
    /// # Errors
    /// When the broker lets nobody in.
    pub fn new(address: &Address, prefix: &str) -> Result<Self, String> {
        Ok(Self {
            address: address.clone(),
            names: Names::new(prefix.to_owned()),
            links: [None, None],
            observer: Observer::new(address)?,
            streams: View::new(),
            step: 0,
        })
    }

    /// Sends a step and awaits its answer, or the end of its channel or connection.
    ///
    /// # Errors
    /// When the broker cannot be reached any more.
    pub fn perform(&mut self, step: &Step) -> Result<(), String> {
        self.step += 1;
        let place = step.place;
        match &step.act {
            Act::Wait(_) => Ok(()),
            Act::DropLink => {
                self.links[place.link] = None;
                self.observer.doubt_locked();
                Ok(())
            }
            Act::CloseLink => {
                if let Some(link) = self.links[place.link].as_mut().filter(|link| !link.ended) {
                    let close = Method::new("connection.close").num("code", 200);
                    // A broker that has just ended the connection says so in what is read next.
                    drop(link.client.send(0, &close));
                    self.await_answer(
                        Place {
                            link: place.link,
                            channel: 0,
                        },
                        "connection.close-ok",
                    );
                }
                self.links[place.link] = None;
                self.observer.doubt_locked();
                Ok(())
            }
            Act::Call(method) => {
                let opens = ["channel.open", "channel.close-ok"].contains(&method.name());
                self.reach(place, !opens)?;
                self.call(place, &self.names.method_sent(method));
                Ok(())
            }
            Act::Publish(method, properties, body) => {
                self.reach(place, true)?;
                self.publish(place, method, properties, body);
                Ok(())
            }
            Act::Settle(verdict, pick, multiple) => {
                self.reach(place, true)?;
                self.settle_delivery(place, *verdict, *pick, *multiple);
                Ok(())
            }
        }
    }

    fn call(&mut self, place: Place, method: &Method) {
        if method.name() == "queue.declare" && !method.has("passive") {
            let quorum = Value::Text("quorum".into());
            let is_quorum = method
                .table_of("arguments")
                .iter()
                .any(|(_, value)| *value == quorum);
            self.observer.declare(method.text_of("queue"), is_quorum);
        }
        let channel = self.channel(place);
        match method.name() {
            "basic.consume" => {
                channel.asked = (method.has("no-ack"), method.text_of("consumer").to_owned());
                if method.has("no-wait") {
                    let (no_ack, tag) = channel.asked.clone();
                    channel.consumers.insert(tag, no_ack);
                }
            }
            "basic.get" => channel.asked = (method.has("no-ack"), String::new()),
            "basic.recover" | "basic.recover-async" => channel.held.clear(),
            "confirm.select" if !channel.in_tx => {
                channel.published.get_or_insert(0);
            }
            "tx.commit" => channel.settled_in_tx.clear(),
            "tx.rollback" => {
                let back = std::mem::take(&mut channel.settled_in_tx);
                channel.held.extend(back);
                channel.held.sort_by_key(|held| held.tag);
            }
            _ => {}
        }
        self.say(place, |client| client.send(place.channel, method));
        let layout = method.layout;
        if layout.answer == 0 || method.has("no-wait") {
            return;
        }
        let answer = super::method::LAYOUTS
            .iter()
            .find(|other| other.class == layout.class && other.id == layout.answer);
        self.await_answer(place, answer.expect("an answer has a layout").name);
    }

    fn publish(&mut self, place: Place, method: &Method, properties: &Properties, body: &[u8]) {
        let method = self.names.method_sent(method);
        let properties = self.names.properties_sent(properties);
        let channel = self.channel(place);
        let number = channel.published.map(|number| number + 1);
        channel.published = number;
        self.say(place, |client| {
            client.publish(place.channel, &method, &properties, body)
        });
        if let Some(number) = number {
            let confirmed = |side: &mut Self| side.channel(place).confirms.contains_key(&number);
            self.pump(place, CONFIRM_WITHIN, confirmed);
        }
    }

    fn settle_delivery(&mut self, place: Place, verdict: Verdict, pick: Pick, multiple: bool) {
        let channel = self.channel(place);
        let tag = channel.tag_of(pick);
        let takes_many = multiple && !matches!(verdict, Verdict::Reject(_));
        channel.forget(tag, takes_many);
        let method = match verdict {
            Verdict::Ack => Method::new("basic.ack").bit("multiple", multiple),
            Verdict::Nack(requeue) => Method::new("basic.nack")
                .bit("multiple", multiple)
                .bit("requeue", requeue),
            Verdict::Reject(requeue) => Method::new("basic.reject").bit("requeue", requeue),
        };
        let method = method.num("tag", tag);
        self.say(place, |client| client.send(place.channel, &method));
    }

    /// Makes sure that what was sent has happened, as far as a client can.
    pub fn settle(&mut self) {
        let places: Vec<Place> = self.open_places().collect();
        for round in 0..2 {
            for place in &places {
                if self.is_open(*place) {
                    let flow = Method::new("channel.flow").bit("active", true);
                    self.say(*place, |client| client.send(place.channel, &flow));
                    self.await_unseen(*place, "channel.flow-ok");
                }
            }
            for link in 0..2 {
                self.pump(Place { link, channel: 0 }, Duration::ZERO, |_| false);
            }
            if round == 0 {
                self.observer.look();
            }
        }
    }

    /// What was seen so far.
    pub fn view(&mut self) -> View {
        let mut view = self.streams.clone();
        for (name, seen) in self.observer.seen() {
            let name = self.names.shown(&name);
            view.insert(format!("queue {name}"), vec![self.names.shown(&seen)]);
        }
        let places: Vec<Place> = self.open_places().collect();
        for place in places {
            let confirms = &self.channel(place).confirms;
            let mut text = String::new();
            for (number, positive) in confirms {
                let sign = if *positive { '+' } else { '-' };
                write!(text, "{sign}{number} ").expect("a string grows");
            }
            if !text.is_empty() {
                let key = format!("{}.{} confirms", place.link, place.channel);
                view.insert(key, vec![text]);
            }
        }
        view
    }

    /// Ends the connections and removes all that was declared.
    pub fn clean_up(mut self, exchanges: &[String]) {
        let exchanges: Vec<String> = exchanges.iter().map(|name| self.names.sent(name)).collect();
        for link in 0..2 {
            let place = Place { link, channel: 0 };
            let closed = self.perform(&Step {
                place,
                act: Act::CloseLink,
            });
            drop(closed); // a connection that has ended is as closed as one can be
        }
        self.observer.remove(&exchanges);
    }

    fn open_places(&self) -> impl Iterator<Item = Place> + use<> {
        let links = self.links.iter().enumerate();
        let places: Vec<Place> = links
            .filter_map(|(link, state)| state.as_ref().map(|state| (link, state)))
            .filter(|(_, state)| !state.ended)
            .flat_map(|(link, state)| state.channels.keys().map(move |channel| (link, *channel)))
            .map(|(link, channel)| Place { link, channel })
            .collect();
        places.into_iter()
    }

    fn is_open(&self, place: Place) -> bool {
        let link = self.links[place.link].as_ref();
        link.is_some_and(|link| !link.ended && link.channels.contains_key(&place.channel))
    }

    /// Opens the connection, and the channel when `channel_too`, unless they are open.
    fn reach(&mut self, place: Place, channel_too: bool) -> Result<(), String> {
        if self.links[place.link]
            .as_ref()
            .is_none_or(|link| link.ended)
        {
            self.links[place.link] = Some(Link {
                client: Client::open(&self.address)?,
                channels: BTreeMap::new(),
                ended: false,
            });
            self.observer.doubt_locked();
        }
        if channel_too && place.channel != 0 && !self.is_open(place) {
            self.say(place, |client| {
                client.send(place.channel, &Method::new("channel.open"))
            });
            self.await_unseen(place, "channel.open-ok");
        }
        Ok(())
    }

    fn channel(&mut self, place: Place) -> &mut Channel {
        let link = self.links[place.link].as_mut().expect("an open connection");
        link.channels.entry(place.channel).or_default()
    }

    fn say(&mut self, place: Place, what: impl FnOnce(&mut Client) -> Result<(), String>) {
        if let Some(link) = self.links[place.link].as_mut() {
            // A socket that takes no more has an end that is read, with the broker's reason.
            drop(what(&mut link.client));
        }
    }

    fn record(&mut self, stream: String, text: String) {
        self.streams.entry(stream).or_default().push(text);
    }

    fn await_answer(&mut self, place: Place, name: &'static str) {
        let seen = self.pump_until(place, ANSWER_WITHIN, Some(name), None, |_| false);
        if !seen {
            self.record(answers(place), format!("no {name} came"));
        }
    }

    fn await_unseen(&mut self, place: Place, name: &'static str) {
        let seen = self.pump_until(place, ANSWER_WITHIN, None, Some(name), |_| false);
        if !seen {
            self.record(
                answers(place),
                format!("no {name} came, which was asked for in between"),
            );
        }
    }

    fn pump(&mut self, place: Place, patience: Duration, done: impl FnMut(&mut Self) -> bool) {
        self.pump_until(place, patience, None, None, done);
    }

    /// Takes in what comes on a connection until the answer is there, `done` says so, the channel or the connection ends,
    /// or patience does. False in that last case.
    fn pump_until(
        &mut self,
        place: Place,
        patience: Duration,
        answer: Option<&str>,
        unseen: Option<&str>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = Instant::now() + patience;
        loop {
            let Some(link) = self.links[place.link].as_ref().filter(|link| !link.ended) else {
                return true;
            };
            let left = end.saturating_duration_since(Instant::now());
            match link.client.receive(left) {
                None => return false,
                Some(Incoming::End(why)) => {
                    self.end_link(place.link);
                    self.record(format!("{} connection", place.link), why);
                    return true;
                }
                Some(Incoming::Method(channel, method, content)) => {
                    let here = channel == place.channel;
                    if here && unseen == Some(method.name()) {
                        self.channel(place);
                        return true;
                    }
                    let at = Place {
                        link: place.link,
                        channel,
                    };
                    let name = method.name();
                    self.take_in(at, method, content);
                    let is_answer = answer == Some(name)
                        || (answer == Some("basic.get-ok") && name == "basic.get-empty");
                    let closed = name == "channel.close" || name == "connection.close";
                    if here && (is_answer || closed) || name == "connection.close" {
                        return true;
                    }
                    if self.is_open(place) && done(self) {
                        return true;
                    }
                }
            }
        }
    }

    fn end_link(&mut self, index: usize) {
        if let Some(link) = self.links[index].as_mut() {
            link.ended = true;
        }
        self.observer.doubt_locked();
    }

    fn take_in(&mut self, at: Place, mut method: Method, content: Option<(Properties, Vec<u8>)>) {
        let name = method.name();
        if name == "basic.ack" || name == "basic.nack" {
            self.channel(at).take_confirm(&method);
            return;
        }
        if name == "queue.declare-ok" {
            self.observer.doubt(method.text_of("queue"));
        }
        let violation = match name {
            "basic.deliver" | "basic.get-ok" => {
                let step = self.step;
                let channel = self.channel(at);
                channel.take_delivery(&method, step)
            }
            _ => None,
        };
        let stream = match name {
            "basic.deliver" | "basic.cancel" => {
                let tag = self.names.shown(method.text_of("consumer"));
                format!("{}.{} to {tag}", at.link, at.channel)
            }
            _ if at.channel == 0 => format!("{} connection", at.link),
            _ => answers(at),
        };
        self.follow(at, &method);
        let (mut properties, body) = content.unwrap_or_default();
        self.names.method_shown(&mut method);
        self.names.properties_shown(&mut properties);
        known::level(&mut method, &mut properties);
        let body = if ["basic.deliver", "basic.get-ok", "basic.return"].contains(&name) {
            format!(" {}", body_text(&body))
        } else {
            String::new()
        };
        self.record(stream.clone(), format!("{method}{properties}{body}"));
        if let Some(violation) = violation {
            self.record(stream, violation);
        }
    }

    /// What a method from the broker changes in the state of its channel.
    fn follow(&mut self, at: Place, method: &Method) {
        match method.name() {
            "channel.close" => {
                self.say(at, |client| {
                    client.send(at.channel, &Method::new("channel.close-ok"))
                });
                self.forget_channel(at);
            }
            "channel.close-ok" => self.forget_channel(at),
            "channel.open-ok" => drop(self.channel(at)),
            "connection.close" => {
                self.say(at, |client| {
                    client.send(0, &Method::new("connection.close-ok"))
                });
                self.end_link(at.link);
            }
            "connection.close-ok" => self.end_link(at.link),
            "basic.consume-ok" => {
                let channel = self.channel(at);
                let no_ack = channel.asked.0;
                channel
                    .consumers
                    .insert(method.text_of("consumer").to_owned(), no_ack);
            }
            "tx.select-ok" => self.channel(at).in_tx = true,
            _ => {}
        }
    }

    fn forget_channel(&mut self, at: Place) {
        if let Some(link) = self.links[at.link].as_mut() {
            link.channels.remove(&at.channel);
        }
    }
}

fn answers(place: Place) -> String {
    format!("{}.{} answers", place.link, place.channel)
}

impl Channel {
    fn tag_of(&self, pick: Pick) -> u64 {
        const NEVER_GIVEN: u64 = 9999;
        match pick {
            Pick::Zero => 0,
            Pick::Unknown => NEVER_GIVEN,
            Pick::Settled => self.settled_last.unwrap_or(NEVER_GIVEN),
            Pick::Held(_) if self.held.is_empty() => NEVER_GIVEN,
            Pick::Held(index) => {
                let mut held: Vec<&Held> = self.held.iter().collect();
                held.sort_by(|left, right| {
                    left.order.cmp(&right.order).then(left.tag.cmp(&right.tag))
                });
                held[index % held.len()].tag
            }
        }
    }

    fn forget(&mut self, tag: u64, many: bool) {
        let (gone, kept) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.tag == tag || many && (tag == 0 || held.tag < tag));
        self.held = kept;
        let gone: Vec<Held> = gone;
        if let Some(last) = gone.last() {
            self.settled_last = Some(last.tag);
        }
        if self.in_tx {
            self.settled_in_tx.extend(gone);
        }
    }

    fn take_confirm(&mut self, method: &Method) {
        let (tag, positive) = (method.num_of("tag"), method.name() == "basic.ack");
        if !method.has("multiple") {
            self.confirms.insert(tag, positive);
            return;
        }
        let last = if tag == 0 {
            self.published.unwrap_or(0)
        } else {
            tag
        };
        for number in 1..=last {
            self.confirms.entry(number).or_insert(positive);
        }
    }

    /// What is wrong with a delivery, if anything.
    fn take_delivery(&mut self, method: &Method, step: usize) -> Option<String> {
        let tag = method.num_of("tag");
        self.tags_given += 1;
        let mut violation = (tag != self.tags_given)
            .then(|| format!("!! delivery tag {tag}, not {}", self.tags_given));
        self.tags_given = tag;
        let consumer = match method.name() {
            "basic.deliver" => method.text_of("consumer").to_owned(),
            _ => String::new(),
        };
        let no_ack = if method.name() == "basic.deliver" {
            let known = self.consumers.get(&consumer).copied();
            if known.is_none() {
                violation = Some("!! a delivery before its consume-ok".into());
            }
            known.unwrap_or(false)
        } else {
            self.asked.0
        };
        if !no_ack {
            let order = (
                step,
                if consumer.starts_with("amq.") {
                    String::new()
                } else {
                    consumer
                },
            );
            self.held.push(Held { tag, order });
        }
        violation
    }
}
