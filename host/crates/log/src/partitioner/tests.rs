//! The partitions that other clients give to keys. `tests/partitioners/generate` made
//! the tables with those clients.

use super::{hash::murmur2, *};

macro_rules! table {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../tests/partitioners/tables/",
                $name,
                ".tsv"
            )),
        )
    };
}

const COUNTS: [u32; 5] = [1, 3, 8, 12, 100];

fn agrees(method: Method, tables: &[(&str, &str)]) {
    for (name, table) in tables {
        let mut rows = 0;
        for row in table.lines() {
            let mut cells = row.split('\t');
            let key = cells.next().unwrap();
            for count in COUNTS {
                let theirs = PartitionId(cells.next().unwrap().parse().unwrap());
                let ours = method.partition(key.as_bytes(), count);
                assert_eq!(ours, theirs, "{name}: {key:?} of {count}");
            }
            assert_eq!(cells.next(), None);
            rows += 1;
        }
        assert!(rows > 50, "{name} has {rows} keys");
    }
}

#[test]
fn murmur2_is_that_of_java_and_others() {
    agrees(
        Method::Murmur2,
        &[
            table!("murmur2-java"),
            table!("murmur2-kafka-go"),
            table!("murmur2-librdkafka"),
        ],
    );
}

#[test]
fn fnv1a_is_that_of_kafka_go_and_sarama() {
    agrees(
        Method::Fnv1a,
        &[
            table!("fnv1a-kafka-go"),
            table!("fnv1a-sarama"),
            table!("fnv1a-librdkafka"),
        ],
    );
}

#[test]
fn crc32_is_that_of_librdkafka_and_kafka_go() {
    agrees(
        Method::Crc32,
        &[table!("crc32-librdkafka"), table!("crc32-kafka-go")],
    );
}

/// The cases of `UtilsTest.testMurmur2` in Apache Kafka.
#[test]
fn murmur2_hashes_as_java_does() {
    let cases: [(&[u8], i32); 6] = [
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (
            b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        (b"abc", 479_470_107),
    ];
    for (key, hash) in cases {
        assert_eq!(murmur2(key), hash.cast_unsigned(), "{key:?}");
    }
}

/// Some keys have negative hashes, and the counts include the least and the greatest.
#[test]
fn every_hash_has_a_partition() {
    for count in [1, 2, 3, 7, u32::MAX] {
        for method in [Method::Murmur2, Method::Fnv1a, Method::Crc32] {
            for key in 0..1000_u32 {
                let partition = method.partition(&key.to_le_bytes(), count);
                assert!(partition.0 < count);
            }
        }
    }
}

#[test]
fn random_goes_everywhere() {
    let mut seen = [0; 3];
    for _ in 0..1000 {
        let partition = Method::Random.partition(b"LAL-BOS", 3);
        seen[partition.0 as usize] += 1;
    }
    // By chance, a count of about 333 is under 220 fewer than once in a million runs.
    assert!(seen.iter().all(|count| *count > 200), "{seen:?}");
}

fn read(toml: &str) -> Result<Partitioner, toml::de::Error> {
    #[derive(Debug, Deserialize)]
    struct Of {
        partitioner: Partitioner,
    }
    toml::from_str::<Of>(toml).map(|of| of.partitioner)
}

#[test]
fn a_map_goes_before_its_fallback() {
    let partitioner =
        read(r#"partitioner = { manual = { "LAL-BOS" = 3, "東京" = 0 }, fallback = "crc32" }"#)
            .unwrap();
    assert_eq!(partitioner.partition(b"LAL-BOS", 8), PartitionId(3));
    assert_eq!(partitioner.partition("東京".as_bytes(), 8), PartitionId(0));
    for key in [&b"LAL-BO"[..], b"", b"\xff"] {
        let fallback = Method::Crc32.partition(key, 8);
        assert_eq!(partitioner.partition(key, 8), fallback);
    }
    partitioner.check(4).unwrap();
    let error = partitioner.check(3).unwrap_err();
    assert!(
        error.contains("LAL-BOS") && error.contains("0 to 2"),
        "{error}"
    );
}

#[test]
fn it_is_read_as_it_is_written() {
    for (toml, fallback, keys) in [
        ("partitioner = 'murmur2'", Method::Murmur2, 0),
        ("partitioner = 'fnv1a'", Method::Fnv1a, 0),
        ("partitioner = 'crc32'", Method::Crc32, 0),
        ("partitioner = 'random'", Method::Random, 0),
        ("partitioner = { manual = { a = 1 } }", Method::Murmur2, 1),
        (
            "partitioner = { manual = { a = 1, b = 0 }, fallback = 'random' }",
            Method::Random,
            2,
        ),
    ] {
        let partitioner = read(toml).unwrap();
        assert_eq!(partitioner.fallback, fallback, "{toml}");
        assert_eq!(partitioner.manual.len(), keys, "{toml}");
        let json = serde_json::to_string(&partitioner).unwrap();
        let again: Partitioner = serde_json::from_str(&json).unwrap();
        assert_eq!(again, partitioner, "{json}");
    }
    for (toml, named) in [
        ("partitioner = 'md5'", "murmur2"),
        ("partitioner = 7", "partitioner"),
        ("partitioner = { fallback = 'crc32' }", "manual"),
        ("partitioner = { manual = { a = -1 } }", "manual"),
        ("partitioner = { manual = {}, other = 1 }", "other"),
        ("partitioner = { manual = {}, fallback = 'md5' }", "md5"),
    ] {
        let error = read(toml).unwrap_err().to_string();
        assert!(error.contains(named), "{toml}: {error}");
    }
}
