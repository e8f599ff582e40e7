//! The topology machine, set 0.
