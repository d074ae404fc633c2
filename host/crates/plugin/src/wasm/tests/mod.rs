//! The engine against components written in text: what is rejected, what a
//! plugin can do, and what becomes of one that misbehaves.

mod bombs;
mod calls;
mod failures;
mod kit;
mod rejections;
