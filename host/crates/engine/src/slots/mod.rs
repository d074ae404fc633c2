//! Slots: which plugin runs where, and how one takes over from another.
//!
//! [`slot`] decides on one slot's file. [`group`] remembers the records of [`topic`],
//! with all directives and confirmations. [`manager`] has the thread: each of its files
//! remembers or decides one thing, and `manager_loop` acts on files, requests, workers
//! and the topic. [`rehearsal`] tries a plugin on copies of checkpoints.
//!
//! A swap happens between two commits of a worker. The worker drops the old instances,
//! and each entity opens in the new plugin at its next event, so the pause does not
//! depend on the number of entities.

pub mod files;
pub mod group;
pub mod library;
pub mod manager;
pub mod rehearsal;
pub mod request;
pub mod slot;
pub mod store;
pub mod time;
pub mod topic;
pub mod view;
