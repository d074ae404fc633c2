//! Slots: which plugin runs where, and how one takes over from another.

pub mod view;
