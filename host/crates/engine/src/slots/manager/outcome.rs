//! The outcome of taking a slot's file.

use courtside_plugin_host::Rejection;

use crate::slots::request::RequestError;

pub(super) enum SwapOutcome {
    /// The file's plugin runs; after a removal, the plugin that runs without the file.
    Runs,
    /// The file was rejected, and the plugin that ran goes on.
    Rejected(Rejection),
    /// The file is being compiled, or waits for that.
    Compiling,
    /// The file stays where it is by a decision from before; the plugin that runs goes
    /// on.
    Left,
    /// The file is to be tried again, for this reason.
    Later(RequestError),
}
