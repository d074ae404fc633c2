//! Failures of a plugin that misbehaves: the kind of failure, a message that helps,
//! and an instance that can no longer be used.

use super::kit::{Probe, compile, probe_with};
use crate::{Failure, FailureKind};

fn fails(value: &str) -> Failure {
    let plugin = compile(&probe_with(&[])).unwrap();
    let mut probe = Probe::of(&*plugin);
    let failure = probe.process(&["A", value, "B"]).unwrap_err();
    assert!(!failure.message.contains('\n'));
    assert!(failure.message.len() <= 1_024);
    assert!(
        failure.message.starts_with("process: "),
        "{}",
        failure.message
    );

    let after = probe.process(&["A"]).unwrap_err();
    assert_eq!(after.kind, failure.kind, "it is of no more use");
    probe.instance.close(probe.entity);
    assert_eq!(Probe::of(&*plugin).answer("A"), "A", "others are well");
    failure
}

#[test]
fn a_trap_names_the_functions_it_was_in() {
    let failure = fails("t");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(
        failure.message.contains("unreachable"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("; in misbehave < "),
        "{}",
        failure.message
    );
}

#[test]
fn a_panic_brings_its_words_along() {
    let failure = fails("p");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(
        failure
            .message
            .contains("it said: thread panicked at src/lib.rs:7:5: boom; in"),
        "{}",
        failure.message
    );
}

#[test]
fn a_loop_without_end_meets_its_deadline() {
    let failure = fails("l");
    assert_eq!(failure.kind, FailureKind::Deadline);
    let said = &failure.message;
    assert!(
        said.contains("the limit call_cpu_time_max is 50ms"),
        "{said}"
    );
    let used = said
        .split_once("it used ")
        .and_then(|(_, rest)| rest.split_once("ms of cpu"));
    let used: u64 = used.expect("how much it used").0.parse().unwrap();
    assert!(used >= 50, "{said}");
}

#[test]
fn memory_has_a_limit() {
    let failure = fails("m");
    assert_eq!(failure.kind, FailureKind::Memory);
    let said = &failure.message;
    assert!(
        said.contains("the limit memory_bytes_max is 4194304"),
        "{said}"
    );
    let has = "it has 4194304 bytes of memory and was refused 65536 more";
    assert!(said.contains(has), "{said}");
}

#[test]
fn a_stack_has_a_limit() {
    let failure = fails("s");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("stack"), "{}", failure.message);
}

#[test]
fn waiting_and_leaving_end_the_call() {
    assert_eq!(fails("w").kind, FailureKind::Waited);
    let failure = fails("x");
    assert_eq!(failure.kind, FailureKind::Exited);
    assert!(failure.message.contains("status 1"), "{}", failure.message);
}

#[test]
fn emissions_have_a_limit_before_and_after_they_are_copied() {
    let after = fails("e");
    assert_eq!(after.kind, FailureKind::Emitted);
    let said = &after.message;
    let limit = "it emitted 70002 bytes, the limit emitted_bytes_max is 65536";
    assert!(said.contains(limit), "{said}");

    let plugin = compile(&probe_with(&[(
        "(memory (export \"memory\") 2)",
        "(memory (export \"memory\") 40)",
    )]))
    .unwrap();
    let before = Probe::of(&*plugin).process(&["b"]).unwrap_err();
    assert_eq!(before.kind, FailureKind::Emitted);
    let said = &before.message;
    let limit = "bytes at once, the limit emitted_bytes_max is 65536";
    assert!(
        said.contains("handed over more than 196608") && said.contains(limit),
        "{said}"
    );
}

#[test]
fn an_outcome_must_make_sense() {
    for value in ["o", "i", "u"] {
        assert_eq!(fails(value).kind, FailureKind::Contract, "{value}");
    }
}

#[test]
fn a_checkpoint_must_keep_to_its_size_and_format() {
    let limit = "the limit checkpoint_bytes_max is 4096";
    for (action, kind, words) in [
        ("1", FailureKind::CheckpointSize, limit),
        ("4", FailureKind::CheckpointSize, limit),
        ("2", FailureKind::Contract, "the format is"),
        ("3", FailureKind::Trap, "unreachable"),
    ] {
        let mut probe = Probe::new();
        probe.process(&[action]).unwrap();
        let failure = probe.instance.checkpoint(probe.entity).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.starts_with("checkpoint: "), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[test]
fn a_denial_of_an_earlier_call_is_not_held_against_a_later_one() {
    // The probe asks for 4,000 pages at once in `k`, is refused, and goes on.
    let greedy = probe_with(&[(
        "(then unreachable))\n    (if (i32.eq (local.get $action) (i32.const 0x6c)) ;; l",
        "(then unreachable))\n    (if (i32.eq (local.get $action) (i32.const 0x6b))
           (then (drop (memory.grow (i32.const 4000)))))
         (if (i32.eq (local.get $action) (i32.const 0x6c)) ;; l",
    )]);
    let plugin = compile(&greedy).unwrap();
    let mut probe = Probe::of(&*plugin);
    probe.process(&["k"]).unwrap();
    let later = probe.process(&["t"]).unwrap_err();
    assert_eq!(later.kind, FailureKind::Trap);
    let mut probe = Probe::of(&*plugin);
    let same = probe.process(&["k", "t"]).unwrap_err();
    assert_eq!(same.kind, FailureKind::Memory);
}
