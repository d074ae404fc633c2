//! A process that is killed: all that it acknowledged is still there, and whole.
//!
//! The process is this test binary, running [`child`] alone.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use courtside_types::{Offset, PartitionId, Topic, TopicPartition};

use super::{config, open};
use crate::{
    Commit, RecordLog as _,
    conformance::{append, assigned, compacted, deleted, join, record, values},
    embedded::Embedded,
};

const DIR: &str = "COURTSIDE_TEST_KILL_DIR";

fn topics() -> (Topic, Topic) {
    ("in".into(), "out".into())
}

/// Appends, and commits output, checkpoint and offset for each append, until killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let (input, output) = topics();
    let log = Embedded::open(Path::new(&dir), config()).unwrap();
    log.ensure_topics(&[deleted(&input, 1), compacted(&output, 1)])
        .unwrap();
    let mut member = join(&*log, "g", &input, 0, 1);
    let mut next = assigned(&mut *member, 1)[0].next().0;
    loop {
        let end = log.bounds(&input).unwrap()[0].end.0;
        if end == next {
            append(&*log, &input, 0, &[&next.to_string()]);
            println!("appended {next}");
        }
        let place = TopicPartition {
            topic: output.clone(),
            partition: PartitionId(0),
        };
        next += 1;
        member
            .commit(&Commit {
                records: vec![(place, record("k", &next.to_string()))],
                checkpoints: vec![(PartitionId(0), "k".into(), Some(next.to_string().into()))],
                offsets: vec![(PartitionId(0), Offset(next))],
            })
            .unwrap();
        println!("committed {next}");
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = topics();
    let (mut appended, mut committed) = (0, 0);
    // The first process is killed while it creates the directory, or soon after.
    for lines in [0, 1, 7, 40, 3, 200] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["embedded::tests::kill::child", "--exact", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let numbers = |line: &str| {
            let (what, number) = line.rsplit_once(' ')?;
            Some((what.ends_with("committed"), number.parse::<u64>().ok()?))
        };
        let progress = |line: &String| line.contains("appended ") || line.contains("committed ");
        for (is_commit, number) in acknowledged
            .filter(progress)
            .take(lines)
            .filter_map(|line| numbers(&line))
        {
            if is_commit {
                committed = number;
            } else {
                appended = number + 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let log = open(dir.path());
        if lines == 0 {
            log.ensure_topics(&[deleted(&input, 1), compacted(&output, 1)])
                .unwrap();
        }
        let inputs = values(&*log, &input, 0, 0);
        assert!(inputs.len() as u64 >= appended);
        assert!(
            inputs
                .iter()
                .enumerate()
                .all(|(n, value)| *value == n.to_string())
        );
        let status = log.group_status("g", &input).unwrap();
        let next = status
            .committed
            .get(&PartitionId(0))
            .map_or(0, |offset| offset.0);
        assert!(next >= committed, "{next} of {committed}");
        let outputs = values(&*log, &output, 0, 0);
        let each_once: Vec<_> = (1..=next).map(|n| n.to_string()).collect();
        assert_eq!(outputs, each_once);
        let checkpoint = log
            .checkpoints("g")
            .unwrap()
            .get(PartitionId(0), b"k")
            .unwrap();
        assert_eq!(checkpoint, (next > 0).then(|| next.to_string().into()));
        (appended, committed) = (inputs.len() as u64, next);
    }
    assert!(committed >= 100);
}
