//! F4, the set's log, which is also its message store. Std threads, no tokio, no openraft; what the bytes mean is
//! not known here.
