//! What can be told of a plugin without running it (its bytes), and of what it
//! says of itself. Pure functions.

mod bytes;
mod complexity;
mod description;

pub(super) use bytes::check_bytes;
pub(super) use complexity::check_complexity;
pub(super) use description::check_description;
