//! Files that are not plugins: the code, and words that name the reason.

use super::kit::{PROBE, compile, component, probe_with};
use crate::wasm::rejection;

#[track_caller]
fn rejected(bytes: &[u8], code: &str, words: &str) {
    let rejection = compile(bytes).err().expect("it was accepted");
    assert_eq!(rejection.code, code, "{rejection}");
    assert!(rejection.message.contains(words), "{rejection}");
}

#[test]
fn bytes_that_are_no_component() {
    rejected(b"", rejection::EMPTY, "empty");
    rejected(
        &vec![0; 9 << 20],
        rejection::TOO_LARGE,
        "has 9437184 bytes, the limit plugin_bytes_max is 8388608",
    );
    rejected(
        b"not a plugin at all",
        rejection::NOT_WASM,
        "not webassembly",
    );
    rejected(
        &wat::parse_str("(module)").unwrap(),
        rejection::CORE_MODULE,
        "wasm32-wasip2",
    );
    let whole = probe_with(&[]);
    rejected(&whole[..whole.len() / 2], rejection::TRUNCATED, "cut short");
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    rejected(&damaged, rejection::NOT_COMPILED, "");
}

#[test]
fn text_is_no_plugin_either() {
    rejected(PROBE.as_bytes(), rejection::NOT_WASM, "not webassembly");
}

#[test]
fn a_component_of_another_world() {
    let empty = wat::parse_str("(component)").unwrap();
    rejected(&empty, rejection::WRONG_WORLD, "exports nothing");

    let other = component(
        "package acme:other@2.0.0;
         interface hello { greet: func(); }
         world other { export hello; }",
        "other",
        r#"(module (func (export "acme:other/hello@2.0.0#greet")))"#,
    );
    rejected(
        &other,
        rejection::WRONG_WORLD,
        "exports acme:other/hello@2.0.0; a plugin exports courtside:plugin/processor@0.1.0",
    );
}

#[test]
fn a_contract_of_another_version_or_shape() {
    let newer = component(
        "package courtside:plugin@0.2.0;
         interface processor { describe: func(); }
         world plugin { export processor; }",
        "plugin",
        r#"(module (func (export "courtside:plugin/processor@0.2.0#describe")))"#,
    );
    rejected(
        &newer,
        rejection::WRONG_WORLD,
        "processor@0.2.0, the newest this host knows is 0.1.0",
    );

    let misshapen = component(
        "package courtside:plugin@0.1.1;
         interface processor { describe: func(); }
         world plugin { export processor; }",
        "plugin",
        r#"(module (func (export "courtside:plugin/processor@0.1.1#describe")))"#,
    );
    rejected(&misshapen, rejection::WRONG_WORLD, "not as the contract");
}

#[test]
fn an_import_that_is_not_linked() {
    let unknown = component(
        "package acme:other;
         interface disk { erase: func(); }
         world other { import disk; }",
        "other",
        r#"(module (import "acme:other/disk" "erase" (func)))"#,
    );
    rejected(
        &unknown,
        rejection::IMPORT_UNKNOWN,
        "imports acme:other/disk,",
    );
    // Only a compiled component shows that a linked interface lacks a function, so the
    // rest of this one is right.
    let future = wat::parse_str(
        r#"(component
             (import "wasi:cli/exit@0.2.99" (instance (export "explode" (func))))
             (component $c) (instance $i (instantiate $c))
             (export "courtside:plugin/processor@0.1.0" (instance $i)))"#,
    )
    .unwrap();
    rejected(&future, rejection::IMPORT_UNKNOWN, "wasi:cli/exit@0.2.99");
}

#[test]
fn a_plugin_that_fails_before_its_first_event() {
    let started = |code: &str| probe_with(&[(";; @start", code)]);
    rejected(
        &started("(start $boot) (func $boot unreachable)"),
        rejection::START_FAILED,
        "plugin-trap: start: ",
    );
    rejected(
        &started("(start $boot) (func $boot (loop $forever (br $forever)))"),
        rejection::START_FAILED,
        "plugin-deadline: start: ",
    );
    rejected(
        &probe_with(&[(
            "(memory (export \"memory\") 2)",
            "(memory (export \"memory\") 65)",
        )]),
        rejection::START_FAILED,
        "plugin-memory: start: ",
    );
    rejected(
        &probe_with(&[(";; @describe", "unreachable")]),
        rejection::DESCRIBE_FAILED,
        "plugin-trap: describe: ",
    );
    rejected(
        &probe_with(&[(";; @describe", "(call $exit (i32.const 0))")]),
        rejection::DESCRIBE_FAILED,
        "plugin-exited: describe: ",
    );
}

#[test]
fn a_description_that_breaks_the_contract() {
    for (from, to) in [
        ("\"probe\"", "\"Probe\""),
        ("\"1.2.3\"", "\"1.2.x\""),
        ("\"probe/1\"", "\"probe-1\""),
    ] {
        rejected(
            &probe_with(&[(from, to)]),
            rejection::DESCRIPTION_INVALID,
            to.trim_matches('"'),
        );
    }
}

#[test]
fn features_that_differ_between_machines_are_not_compiled() {
    let relaxed = probe_with(&[(
        ";; @start",
        "(func (result v128)
           (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))",
    )]);
    rejected(&relaxed, rejection::NOT_COMPILED, "relaxed");
}
