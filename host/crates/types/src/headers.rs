//! The names of the record headers that more than one part reads or writes.

/// The header that carries a client's `Idempotency-Key`.
pub const IDEMPOTENCY_HEADER: &str = "courtside-idempotency-key";

/// The header that carries an event's number among the events of its record key
/// in a request with such a key, from 0.
pub const IDEMPOTENCY_INDEX_HEADER: &str = "courtside-idempotency-index";

/// Header names that begin with this, in either case, are the host's own.
pub const HOST_HEADER_PREFIX: &str = "courtside-";

/// `name@version` of the plugin that made an output record.
pub const PLUGIN_HEADER: &str = "courtside-plugin";
/// The SHA-256 of that plugin's file.
pub const DIGEST_HEADER: &str = "courtside-digest";
/// `topic/partition/offset` of the event that led to the record.
pub const SOURCE_HEADER: &str = "courtside-source";

/// How often the event was processed, where a rollback had it processed again.
pub const ATTEMPT_HEADER: &str = "courtside-attempt";

/// The event's own time, in milliseconds since 1970, on a record that has another
/// one: a dead letter, and an output whose event's time would not do.
pub const EVENT_TIME_HEADER: &str = "courtside-event-time";

/// `topic/id` of the input that the host wrote a record to, where the record has
/// other headers of the host. Those count only beside this one: other programs
/// copy headers from topic to topic.
pub const TOPIC_HEADER: &str = "courtside-topic";
