//! The end of the process, whatever its threads do.
#![allow(unsafe_code)]

/// Ends the process at once. Nothing is unwound, and no destructor and no handler of
/// `atexit` runs: OpenSSL's handler would free memory that a client's thread, left
/// behind in OpenSSL, still uses.
pub(super) fn exit(status: u8) -> ! {
    // SAFETY: the call takes a number, and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}
