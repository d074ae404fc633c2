//! The end of the process, whatever its threads do.
#![allow(unsafe_code)]

/// Ends the process at once. Nothing is unwound, no destructor runs, and no
/// handler of `atexit`: OpenSSL's would free what a client's thread, left behind
/// in it, still uses.
pub(super) fn exit(status: u8) -> ! {
    // SAFETY: the call takes a number, and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}
