//! Any file of a store, damaged in any way. Each seed chooses one file and one way.
//!
//! `COURTSIDE_TEST_SEEDS` is the number of seeds to try, from 0 on.

use std::collections::BTreeMap;

use super::*;

const SEEDS: u64 = 40;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    PageOfZeros,
    Cut,
    OneBit,
    Missing,
    Empty,
    OlderCopy,
}

const WAYS: [Way; 6] = [
    Way::PageOfZeros,
    Way::Cut,
    Way::OneBit,
    Way::Missing,
    Way::Empty,
    Way::OlderCopy,
];

/// Damages one file. Returns false if the file cannot be damaged in this way.
fn damage(dir: &Path, file: &Path, way: Way, random: &mut ChaCha8Rng) -> bool {
    let path = dir.join(file);
    let mut bytes = fs::read(&path).unwrap();
    let before = bytes.clone();
    match way {
        Way::Missing => {
            fs::remove_file(path).unwrap();
            return true;
        }
        Way::Empty => bytes.clear(),
        Way::Cut if !bytes.is_empty() => bytes.truncate(random.random_range(0..bytes.len())),
        Way::OneBit if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        Way::PageOfZeros if !bytes.is_empty() => {
            let pages = (bytes.len() as u64).div_ceil(PAGE);
            let from = (random.random_range(0..pages) * PAGE) as usize;
            let to = (from + PAGE as usize).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Way::OlderCopy => {
            let moments = [Moment::Early, Moment::Late];
            let moment = moments[random.random_range(0..moments.len())];
            match fs::read(LIVES.path(moment).join(file)) {
                Ok(older) => bytes = older,
                Err(_) => return false,
            }
        }
        _ => {}
    }
    fs::write(path, &bytes).unwrap();
    bytes != before
}

#[test]
fn no_damage_is_silent() {
    let seeds = std::env::var("COURTSIDE_TEST_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let mut counts: BTreeMap<(Moment, Outcome), u64> = BTreeMap::new();
    let mut by_way: BTreeMap<(Way, Outcome), u64> = BTreeMap::new();
    for seed in 0..seeds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let moments = [Moment::Late, Moment::Killed, Moment::Unanswered];
        let moment = moments[random.random_range(0..moments.len())];
        let dir = LIVES.copy(moment);
        let files = files(dir.path());
        let (file, way) = loop {
            let any = &files[random.random_range(0..files.len())];
            let way = WAYS[random.random_range(0..WAYS.len())];
            // The unanswered write is in the journal, so half of these seeds damage it.
            let of_journal = moment == Moment::Unanswered && random.random_bool(0.5);
            let journal = files.iter().find(|file| file.ends_with("0.jnl"));
            let file = journal.filter(|_| of_journal).unwrap_or(any);
            if damage(dir.path(), file, way, &mut random) {
                break (file, way);
            }
        };
        let what = format!("seed {seed}: {moment:?}, {}, {way:?}", file.display());
        let (outcome, reason) = start_seeded(dir.path(), moment, &what);
        if seeds > SEEDS {
            println!("{what}: {outcome:?} {reason}");
        }
        *counts.entry((moment, outcome)).or_default() += 1;
        *by_way.entry((way, outcome)).or_default() += 1;
    }
    println!("{counts:?}\n{by_way:?}");
    let refused: u64 = counts
        .iter()
        .filter(|((_, outcome), _)| *outcome <= Outcome::RefusedAtRead)
        .map(|(_, count)| count)
        .sum();
    assert!(refused > 0 && refused < seeds, "{counts:?}");
}
