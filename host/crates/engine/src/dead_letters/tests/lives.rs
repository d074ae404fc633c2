//! Redrives that are killed at any commit.

use super::*;

/// Numbers that look random, but are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const KEYS: [&str; 7] = [
    "halt-a", "halt-b", "halt-c", "no-a", "no-b", "mixed-a", "mixed-b",
];

fn value(chance: &mut Chance, key: &str, number: usize) -> String {
    let misdeeds: &[&str] = match key.split('-').next().unwrap() {
        "halt" => &["halt"],
        "no" => &["no", "trap"],
        _ => &["halt", "no", "trap"],
    };
    let misdeed = match chance.below(5) {
        0 => misdeeds[chance.below(misdeeds.len() as u64) as usize],
        _ => "",
    };
    format!("{number}{misdeed}")
}

#[test]
fn every_event_is_processed_once_however_often_a_redrive_is_killed() {
    let killed: usize = (1..=8).map(one_life).sum();
    assert!(killed >= 8, "{killed} were killed");
}

/// A host that stops does not wait for what a redrive would wait for.
#[test]
fn a_redrive_that_waits_ends_when_it_is_told_to() {
    let scene = Scene::new();
    let deadly = Arc::new(Deadly {
        log: Arc::clone(&scene.log),
        left: Arc::new(AtomicI64::new(NEVER)),
    });
    let letters = DeadLetters::new(deadly, Arc::clone(&scene.pipeline));
    letters.redrive(Selection::All).unwrap();
    letters.stop();
    assert_eq!(letters.end_by(patience()), End::Clean);
    let progress = letters.progress();
    assert_eq!(progress.state, RedriveState::Failed);
    assert_eq!(progress.code.as_deref(), Some("redrive-interrupted"));
}

/// Runs one scene with its own chance, and returns how many redrives were killed.
fn one_life(seed: u64) -> usize {
    println!("seed {seed}");
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let scene = Scene::new();
    scene.swap(true);
    let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for number in 0..150 {
        let key = KEYS[chance.below(KEYS.len() as u64) as usize];
        let value = value(&mut chance, key, number);
        scene.append(key, &value);
        sent.entry(key).or_default().push(value);
    }
    scene.settle();
    if chance.below(2) == 0 {
        // This redrive comes too early: the plugin is still the bad one.
        let progress = redrive(&scene.letters(), Selection::All);
        assert_eq!(progress.state, RedriveState::Done, "{progress:?}");
        assert_eq!(progress.redriven, progress.dead_again, "{progress:?}");
    }
    scene.swap(false);

    // Live events come all the while.
    let live = {
        let (log, topic) = (Arc::clone(&scene.log), scene.pipeline.input.clone());
        let mut chance = Chance(seed + 1000);
        std::thread::spawn(move || {
            let mut sent: Vec<(&str, String)> = Vec::new();
            for number in 1000..1060 {
                let key = KEYS[chance.below(KEYS.len() as u64) as usize];
                let value = value(&mut chance, key, number);
                append(&*log, &topic, key, &value);
                sent.push((key, value));
                std::thread::sleep(Duration::from_millis(chance.below(12)));
            }
            sent
        })
    };
    let mut killed = 0;
    for _ in 0..6 {
        let deadly = Arc::new(Deadly {
            log: Arc::clone(&scene.log),
            left: Arc::new(AtomicI64::new(i64::try_from(chance.below(6)).unwrap())),
        });
        let letters = DeadLetters::new(deadly, Arc::clone(&scene.pipeline));
        let progress = redrive(&letters, Selection::All);
        killed += usize::from(progress.code.as_deref() == Some("redrive-interrupted"));
    }
    for (key, value) in live.join().unwrap() {
        sent.entry(key).or_default().push(value);
    }
    scene.settle();
    let letters = scene.letters();
    let progress = redrive(&letters, Selection::All);
    assert_eq!(progress.state, RedriveState::Done, "{progress:?}");
    assert_eq!((progress.dead_again, progress.left), (0, 0), "{progress:?}");
    let plan = letters.plan(&Selection::All).unwrap();
    assert_eq!(plan.letters, 0, "{plan:?} {progress:?}");
    let again = redrive(&scene.letters(), Selection::All);
    assert_eq!(again.redriven, 0, "{again:?}");

    for (key, sent) in sent {
        let (state, is_halted) = scene.state(key);
        assert!(!is_halted, "{key}");
        let mut state: Vec<_> = state.split_whitespace().collect();
        if key.starts_with("halt") {
            // The state is as if the plugin had been good from the start.
            assert_eq!(state, sent, "{key}");
            continue;
        }
        let mut sent: Vec<_> = sent.iter().map(String::as_str).collect();
        sent.sort_unstable();
        state.sort_unstable();
        assert_eq!(state, sent, "{key}");
    }
    killed
}
