//! The fjall database of a store: its settings and its keyspaces.

use std::path::Path;

use fjall::{
    CompressionType, Database, DatabaseBuilder, Keyspace, KeyspaceCreateOptions,
    KvSeparationOptions,
    config::{BlockSizePolicy, CompressionPolicy, FilterPolicy},
};

use crate::embedded::config::{EmbeddedConfig, JOURNAL_FILE_BYTES};

const WORKER_THREADS: usize = 2;

/// Values up to this size stay in the tree.
const BLOB_FROM_BYTES: u32 = 2 << 10;

/// The keyspaces, in the order of their creation.
pub(in super::super) const SPACES: usize = 3;
pub(in super::super) const RECORDS: usize = 0;
pub(in super::super) const META: usize = 1;
/// The keyspaces' numbers in journals and directories; keyspace 0 has their names.
pub(super) const NAMES_ID: u64 = 0;
pub(super) const SPACE_IDS: [u64; SPACES] = [1, 2, 3];

pub(super) fn builder(path: &Path, config: &EmbeddedConfig) -> DatabaseBuilder<Database> {
    // Bytes of journal files that fjall no longer writes to. Beyond this, fjall
    // flushes, which must begin before a commit waits for room.
    let sealed = config.journal_bytes_max.as_u64();
    let sealed = sealed.saturating_sub(2 * JOURNAL_FILE_BYTES);
    Database::builder(path)
        .cache_size(config.cache_bytes.as_u64())
        .journal_compression(CompressionType::None)
        .max_journaling_size(sealed.max(JOURNAL_FILE_BYTES))
        .worker_threads(WORKER_THREADS)
}

/// Opens the keyspaces, creating those that are not there.
pub(super) fn keyspaces(db: &Database) -> Result<[Keyspace; SPACES], fjall::Error> {
    Ok([
        db.keyspace("records", records_options)?,
        db.keyspace("meta", || {
            KeyspaceCreateOptions::default().max_memtable_size(4 << 20)
        })?,
        db.keyspace("checkpoints", || {
            KeyspaceCreateOptions::default().max_memtable_size(16 << 20)
        })?,
    ])
}

fn records_options() -> KeyspaceCreateOptions {
    // Batches are compressed already. Reads look for them by ranges, and filters do
    // not help with those.
    let none = CompressionPolicy::disabled;
    KeyspaceCreateOptions::default()
        .max_memtable_size(32 << 20)
        .data_block_compression_policy(none())
        .index_block_compression_policy(none())
        .data_block_size_policy(BlockSizePolicy::all(16 << 10))
        .filter_policy(FilterPolicy::disabled())
        .with_kv_separation(Some(
            KvSeparationOptions::default()
                .compression(CompressionType::None)
                .separation_threshold(BLOB_FROM_BYTES),
        ))
}
