//! The hashes of keys that other Kafka clients use.

/// MurmurHash2 with Kafka's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
pub(super) fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Kafka's lengths are 32 bits wide, and so is its hash of them.
    #[allow(clippy::cast_possible_truncation)]
    let mut hash = SEED ^ (data.len() as u32);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (index, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// FNV-1a of 32 bits.
pub(super) fn fnv1a(data: &[u8]) -> u32 {
    data.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// CRC-32 as zlib and Ethernet have it.
pub(super) fn crc32(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // Half a byte at a time: a key is short, and so the table is, too.
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut nibble: u32 = 0;
        while nibble < 16 {
            let mut sum = nibble;
            let mut bit = 0;
            while bit < 4 {
                sum = (sum >> 1) ^ (POLYNOMIAL * (sum & 1));
                bit += 1;
            }
            table[nibble as usize] = sum;
            nibble += 1;
        }
        table
    };
    let step = |sum: u32| {
        let [low, ..] = sum.to_le_bytes();
        // Sixteen of them, for four bits.
        let row = TABLE.get(usize::from(low & 15)).copied().unwrap_or(0);
        (sum >> 4) ^ row
    };
    !data
        .iter()
        .fold(!0, |sum, byte| step(step(sum ^ u32::from(*byte))))
}
