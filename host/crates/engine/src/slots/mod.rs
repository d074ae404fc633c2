//! Slots: which plugin runs where, and how one takes over from another.

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
