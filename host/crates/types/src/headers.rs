//! The names of the record headers that more than one part reads or writes.

/// The header that carries a client's `Idempotency-Key`.
pub const IDEMPOTENCY_HEADER: &str = "courtside-idempotency-key";

/// The header that carries an event's number among the events of its record key
/// in a request with such a key, from 0.
pub const IDEMPOTENCY_INDEX_HEADER: &str = "courtside-idempotency-index";
