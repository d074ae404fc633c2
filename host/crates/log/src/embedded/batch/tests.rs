//! Batches that are written, joined, read and damaged.

use bytes::Bytes;
use courtside_types::{Header, Offset, Record};
use fjall::UserValue;
use proptest::{collection::vec, option, prelude::*};
use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn field() -> impl Strategy<Value = Bytes> {
    // Short fields of few letters, so that some batches compress.
    prop_oneof![
        vec(b'a'..b'd', 0..40).prop_map(Bytes::from),
        vec(any::<u8>(), 0..300).prop_map(Bytes::from),
    ]
}

prop_compose! {
    fn header()(name in "[a-zé]{0,8}", value in option::of(field())) -> Header {
        Header { name: name.into(), value }
    }
}

prop_compose! {
    fn record()(
        gap in 1_u64..5000,
        timestamp_ms in any::<u64>(),
        key in option::of(field()),
        headers in vec(header(), 0..3),
        value in option::of(field()),
    ) -> Record {
        Record { offset: Offset(gap), timestamp_ms, key, headers, value }
    }
}

fn numbered(mut records: Vec<Record>, base: u64, sparse: bool) -> Vec<Record> {
    let mut offset = base;
    for record in &mut records {
        let gap = if sparse { record.offset.0 } else { 1 };
        record.offset = Offset(offset);
        offset += gap;
    }
    records
}

fn encode(records: &[Record], sparse: bool) -> Encoded {
    let mut builder = if sparse {
        Builder::sparse(records[0].offset.0)
    } else {
        Builder::dense()
    };
    for r in records {
        if sparse {
            assert!(builder.push_at(r));
        } else {
            builder.push(r.timestamp_ms, r.key.as_ref(), &r.headers, r.value.as_ref());
        }
    }
    builder.seal()
}

fn decode(base: u64, value: &[u8]) -> Result<Vec<Record>, Damage> {
    Batch::parse(base, UserValue::from(value))?
        .records()
        .collect()
}

fn resealed(mut value: Vec<u8>) -> Vec<u8> {
    if value.len() >= CHECKSUM_BYTES {
        let checksum = xxh3_64(&value[CHECKSUM_BYTES..]).to_le_bytes();
        value[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    }
    value
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        records in vec(record(), 1..60), base in 0..u64::MAX / 2, sparse in any::<bool>(),
    ) {
        let records = numbered(records, base, sparse);
        let encoded = encode(&records, sparse);
        prop_assert_eq!(Head::parse(&encoded.value), Ok(encoded.head));
        prop_assert_eq!(encoded.head.count as usize, records.len());
        prop_assert_eq!(
            base + u64::from(encoded.head.last_delta),
            records[records.len() - 1].offset.0
        );
        prop_assert_eq!(decode(base, &encoded.value), Ok(records));
    }

    #[test]
    fn joined_batches_are_their_records_in_order(parts in vec(vec(record(), 1..4), 1..6)) {
        let all = numbered(parts.concat(), 7, false);
        let batches: Vec<_> = parts.iter().map(|part| encode(part, false)).collect();
        prop_assume!(batches.iter().all(Encoded::is_joinable));
        prop_assert_eq!(decode(7, &join(&batches).value), Ok(all));
    }

    #[test]
    fn damage_is_noticed(
        records in vec(record(), 1..20), sparse in any::<bool>(),
        at in any::<prop::sample::Index>(), xor in 1_u8.., cut in any::<prop::sample::Index>(),
    ) {
        let value = encode(&numbered(records, 0, sparse), sparse).value.to_vec();
        let mut changed = value.clone();
        changed[at.index(value.len())] ^= xor;
        prop_assert!(decode(0, &changed).is_err());
        prop_assert!(decode(0, &value[..cut.index(value.len())]).is_err());
    }

    /// In the test above, the checksum stops all damage before the decoder sees it.
    #[test]
    fn damage_with_the_right_checksum_does_no_harm(
        records in vec(record(), 1..20), sparse in any::<bool>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut value = encode(&numbered(records, 0, sparse), sparse).value.to_vec();
        value.truncate(cut.index(value.len()) + 1);
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        if let Ok(records) = decode(0, &resealed(value)) {
            prop_assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
        }
    }
}

#[test]
fn alike_records_are_compressed_and_random_ones_are_not() {
    let alike: Vec<_> = (0..200)
        .map(|n| Record {
            offset: Offset(n),
            timestamp_ms: 1_700_000_000_000 + n,
            key: Some(Bytes::from_static(b"2025-11-20-LAL-BOS")),
            headers: vec![],
            value: Some(Bytes::from_static(br#"{"points":{"LAL":101,"BOS":99}}"#)),
        })
        .collect();
    let encoded = encode(&alike, false);
    assert!(encoded.head.lz4);
    assert!(encoded.value.len() * 5 < encoded.head.raw_len as usize);

    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    })
    .take(4096)
    .collect();
    let mut random = alike[0].clone();
    random.value = Some(Bytes::from(noise));
    assert!(!encode(&[random], false).head.lz4);
}
