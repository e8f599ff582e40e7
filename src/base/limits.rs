//! Every bound of the broker in one place, with what happens at it.

/// Bytes of waiting commands at which the proposer is woken without waiting for the end of a connection's turn.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;
/// Bytes at which a batch is closed although the proposer has not asked for it, so that many large messages at once do
/// not become one entry.
pub const BATCH_SPLIT_BYTES: usize = 8 * 1024 * 1024;
/// Commands one Raft entry may carry.
pub const ENTRY_COMMANDS_MAX: usize = 64 * 1024;
/// Bytes waiting in one set's outbox; past it the sockets that feed it are not read.
pub const OUTBOX_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Entries of one set proposed and not applied yet.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Largest body AMQP may announce; larger is a connection error 501 (RabbitMQ's ceiling).
pub const BODY_SIZE_CEILING_BYTES: u64 = 536_870_912;
/// Default of `max_message_size`; larger is a channel error 406.
pub const MESSAGE_SIZE_MAX_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// Nesting of AMQP tables and arrays; deeper is a decode error.
pub const TABLE_DEPTH_MAX: usize = 32;
/// Pages of streams a set keeps decoded for their readers, about 128 KiB each; past it the one read longest ago goes.
pub const STREAM_PAGES_HOT_MAX: usize = 32;
/// Deadlines one apply may fire; the leader proposes further ticks for the rest.
pub const DEADLINES_PER_APPLY_MAX: usize = 512;
/// Messages delivered ahead of the socket to a consumer without a prefetch of its own.
pub const WINDOW_MESSAGES: u32 = 16 * 1024;
/// Unsettled messages one consumer may hold; past it, it gets no more until it settles some.
pub const LEASES_PER_CONSUMER_MAX: u64 = 4_000_000;
/// Shortest and longest `x-visibility-timeout`, in milliseconds (CMQ: 1 s to 12 h).
pub const VISIBILITY_TIMEOUT_MS_MIN: u64 = 1_000;
/// See [`VISIBILITY_TIMEOUT_MS_MIN`].
pub const VISIBILITY_TIMEOUT_MS_MAX: u64 = 43_200_000;
/// Ten years, the most a TTL or expiry may be, in milliseconds (RabbitMQ's bound).
pub const TTL_MS_MAX: u64 = 315_360_000_000;
/// Dead letters and vanished queues told to the worker and not taken yet; past it the worker asks the machine.
pub const SET_EFFECTS_MAX: usize = 16 * 1024;
/// Dead letters of one queue with `x-dead-letter-strategy: at-least-once` that are tried at once; the others wait in it.
pub const RETAINED_IN_FLIGHT_MAX: usize = 32;
/// Bytes read ahead when a delivery misses the tail cache.
pub const READ_AHEAD_BYTES: usize = 1024 * 1024;
