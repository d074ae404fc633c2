//! Checks of a plugin's bytes, without running them, and of its description of
//! itself. All are pure functions.

mod bytes;
mod complexity;
mod description;

pub(super) use bytes::check_bytes;
pub(super) use complexity::check_complexity;
pub(super) use description::check_description;
