//! The command line.

use clap::Parser;

/// A load generator for AMQP 0-9-1 brokers: publishers and consumers, each on a connection of its own.
#[derive(Clone, Debug, Parser)]
#[command(name = "leveret-bench", version)]
pub struct Options {
    /// Broker's host
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Broker's port
    #[arg(long, default_value_t = 5672)]
    pub port: u16,
    /// User
    #[arg(long, default_value = "guest")]
    pub user: String,
    /// Password
    #[arg(long, default_value = "guest")]
    pub pass: String,
    /// Virtual host
    #[arg(long, default_value = "/")]
    pub vhost: String,
    /// Publishing connections
    #[arg(long, default_value_t = 1)]
    pub publishers: u32,
    /// Consuming connections
    #[arg(long, default_value_t = 1)]
    pub consumers: u32,
    /// Queues; publishers and consumers are spread over them
    #[arg(long, default_value_t = 1)]
    pub queues: u32,
    /// Queue names are this and a number
    #[arg(long, default_value = "bench-")]
    pub queue_prefix: String,
    /// Body size, bytes; from 8 on the body carries a time stamp, from 20 on also publisher and number
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Publish transient messages (persistent otherwise)
    #[arg(long)]
    pub transient: bool,
    /// Publishes that may wait for their confirm; 0 = no confirms
    #[arg(long, default_value_t = 1000)]
    pub confirm: u64,
    /// Ack every so many messages, with multiple; 0 = automatic acks
    #[arg(long, default_value_t = 100)]
    pub ack_every: u64,
    /// Prefetch of each consumer; 0 = unlimited
    #[arg(long, default_value_t = 1000)]
    pub prefetch: u16,
    /// Declared queue type
    #[arg(long, default_value = "classic")]
    pub queue_type: String,
    /// Further queue argument, key=value (number, true, false, or text); may be repeated
    #[arg(long = "arg", value_parser = argument)]
    pub arguments: Vec<(String, Value)>,
    /// Messages per second of each publisher; 0 = as fast as it goes
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Stop after so many messages in all; 0 = by time
    #[arg(long, default_value_t = 0)]
    pub count: u64,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Seconds before measuring begins
    #[arg(long, default_value_t = 1)]
    pub warmup: u64,
    /// Only publish
    #[arg(long)]
    pub publish_only: bool,
    /// Only consume: until --count messages came, or none for 2 s
    #[arg(long)]
    pub consume_only: bool,
    /// Purge the queues first
    #[arg(long)]
    pub purge: bool,
    /// Delete the queues at the end
    #[arg(long)]
    pub delete: bool,
    /// Check order, losses and repeats of each publisher's messages (bodies of 20 bytes or more, one consumer a queue)
    #[arg(long)]
    pub verify: bool,
    /// Measure the CPU of this broker process; may be repeated
    #[arg(long = "pid")]
    pub pids: Vec<u32>,
    /// Print the report as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// A queue argument's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Int(i64),
    Bool(bool),
    Text(String),
}

fn argument(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("key=value is wanted")?;
    let value = match value {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        value => value
            .parse()
            .map_or_else(|_| Value::Text(value.to_owned()), Value::Int),
    };
    Ok((key.to_owned(), value))
}
