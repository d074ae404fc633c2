//! Values that are compressed once, for all their readers.
//!
//! A compressed value is a part of a DEFLATE stream that refers to nothing before
//! it and ends at a byte. Such a part can follow any other, so every reader's
//! stream is put together from the same parts, and none needs a compressor of its
//! own (256 KB each). The price is that a value is not written as its difference
//! from the one before: a stream shrinks to a half or a third, and not to a tenth.
//! Each thread has one compressor, and readers cost no CPU time for compression.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

/// Below this size, compression saves too little to be worth a try.
const BYTES_MIN: usize = 128;

thread_local! {
    static COMPRESSOR: RefCell<Compress> =
        RefCell::new(Compress::new(Compression::default(), false));
}

/// The value compressed; `None` where it would not get smaller.
pub fn deflate(value: &[u8]) -> Option<Bytes> {
    if value.len() < BYTES_MIN {
        return None;
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        // `compress_vec` does not grow the vector: a result that is no smaller
        // does not fit.
        let mut out = Vec::with_capacity(value.len());
        compressor
            .compress_vec(value, &mut out, FlushCompress::Sync)
            .ok()?;
        // A result that did not fit is not complete.
        let is_whole = usize::try_from(compressor.total_in()).ok() == Some(value.len());
        (is_whole && out.len() < value.len()).then(|| Bytes::from(out.into_boxed_slice()))
    })
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;
    use rand_chacha::{
        ChaCha8Rng,
        rand_core::{RngCore as _, SeedableRng as _},
    };

    use super::*;

    #[test]
    fn what_gets_no_smaller_is_left() {
        assert_eq!(deflate(&[b'x'; BYTES_MIN - 1]), None);
        let mut chance = [0; 1000];
        ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut chance);
        assert_eq!(deflate(&chance), None);
    }

    proptest! {
        /// Parts one after the other are one stream.
        #[test]
        fn parts_follow_each_other(values in prop::collection::vec("[a-f{}:\", ]{0,600}", 0..8)) {
            let mut stream = Vec::new();
            let mut plain = Vec::new();
            for value in &values {
                if let Some(part) = deflate(value.as_bytes()) {
                    stream.extend_from_slice(&part);
                    plain.extend_from_slice(value.as_bytes());
                }
            }
            let mut inflated = Vec::with_capacity(plain.len() + 1);
            Decompress::new(false)
                .decompress_vec(&stream, &mut inflated, FlushDecompress::Sync)
                .unwrap();
            prop_assert_eq!(inflated, plain);
        }
    }
}
