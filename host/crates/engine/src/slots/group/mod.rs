//! The host's memory of its group: the records of the topic `<group>.plugins` as far as
//! anybody asks for them. Each file has the records of one kind, and decides what
//! follows from them; nothing here reads or writes the log.
//!
//! The memory lives as long as the slots' manager, which reads the topic anew at each
//! start.

pub mod confirmations;
pub mod directives;
pub mod records;
pub mod swaps;
