//! The probe of the engine's own tests, with some of its text replaced: a small
//! plugin that can be bad in any way.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../wit/plugin.wit");
const WIT: &str = include_str!("../../../host/crates/plugin/src/wasm/tests/probe.wit");
const MODULE: &str = include_str!("../../../host/crates/plugin/src/wasm/tests/probe.wat");

pub fn with(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut text = MODULE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "the probe has no {from}");
        text = text.replace(from, to);
    }
    let mut resolve = Resolve::default();
    resolve
        .push_str("plugin.wit", CONTRACT)
        .expect("the contract");
    let package = resolve.push_str("probe.wit", WIT).expect("the probe's wit");
    let world = resolve
        .select_world(&[package], Some("probe"))
        .expect("its world");
    let mut module = wat::parse_str(&text).expect("a module's text");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("a module of that world");
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .expect("a component")
}
