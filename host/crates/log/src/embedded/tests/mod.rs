//! The engine as a whole, on real directories.

mod cleaning;
mod compaction;
mod damage;
mod disk;
mod journal;
mod kill;
mod reopening;

use super::subject::{EmbeddedSubject, config, open};
use crate::conformance::conformance;

conformance!(EmbeddedSubject::default());
