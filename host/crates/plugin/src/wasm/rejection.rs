//! The stable codes a file is rejected with; each has a line in
//! `docs/errors.md`.

use crate::Rejection;

/// The file is empty.
pub const EMPTY: &str = "plugin-empty";
/// The file is over the size limit.
pub const TOO_LARGE: &str = "plugin-too-large";
/// The file is not WebAssembly.
pub const NOT_WASM: &str = "plugin-not-wasm";
/// The file ends in the middle.
pub const TRUNCATED: &str = "plugin-truncated";
/// The file is a core module, not a component.
pub const CORE_MODULE: &str = "plugin-core-module";
/// The component does not export the contract, or not in a version this host
/// knows.
pub const WRONG_WORLD: &str = "plugin-wrong-world";
/// The component imports what this host does not offer.
pub const IMPORT_UNKNOWN: &str = "plugin-import-unknown";
/// A function of the component is more than the compiler could do in a bounded time.
pub const TOO_COMPLEX: &str = "plugin-too-complex";
/// Compiling it went over a limit, now or before.
pub const COMPILE_LIMIT: &str = "plugin-compile-limit";
/// The component is not valid, or uses features this host does not allow.
pub const NOT_COMPILED: &str = "plugin-not-compiled";
/// The component cannot be instantiated under its limits.
pub const START_FAILED: &str = "plugin-start-failed";
/// The plugin fails when asked to describe itself.
pub const DESCRIBE_FAILED: &str = "plugin-describe-failed";
/// The plugin's description of itself breaks the contract.
pub const DESCRIPTION_INVALID: &str = "plugin-description-invalid";
/// The host could not try to compile (no thread to be had, for instance).
pub const NOT_TRIED: &str = "plugin-compile-not-tried";

/// The code with the text that a compile process has sent.
pub(super) fn known(code: &str) -> &'static str {
    [WRONG_WORLD, IMPORT_UNKNOWN, TOO_COMPLEX]
        .into_iter()
        .find(|known| *known == code)
        .unwrap_or(NOT_COMPILED)
}

pub(super) fn rejection(code: &'static str, message: impl Into<String>) -> Rejection {
    Rejection {
        code,
        message: message.into(),
    }
}
