//! Components made from text, so that a test shows what it runs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use courtside_types::{Header, Offset, Record};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::super::{Engine, EngineConfig};
use crate::{Compiler, EntityId, Event, Failure, Instance, Limits, Outcome, Plugin, Rejection};

const CONTRACT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../wit/plugin.wit"
));
const PROBE_WIT: &str = include_str!("probe.wit");
pub const PROBE: &str = include_str!("probe.wat");

/// A core module as a component of a world of `wit`.
pub fn component(wit: &str, world: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_str("plugin.wit", CONTRACT).unwrap();
    let package = resolve.push_str("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

/// The probe, with some of its text replaced.
pub fn probe_with(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut module = PROBE.to_owned();
    for (from, to) in changes {
        assert!(module.contains(from), "the probe has no {from}");
        module = module.replace(from, to);
    }
    component(PROBE_WIT, "probe", &module)
}

/// The probe with some functions more. Each has `blocks` blocks and `locals` locals,
/// and all locals live through all blocks.
pub fn bomb(functions: usize, blocks: usize, locals: usize) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut function = format!("(func (local{})", " i32".repeat(locals));
    for block in 0..blocks {
        let (read, written) = (block % locals, (block + 1) % locals);
        write!(
            function,
            "(if (local.get {read}) (then (local.set {written} (i32.add (local.get {read}) (i32.const 1)))))"
        )
        .unwrap();
    }
    for local in 0..locals {
        write!(function, "(drop (local.get {local}))").unwrap();
    }
    function.push(')');
    probe_with(&[(";; @start", &function.repeat(functions))])
}

pub fn limits() -> Limits {
    Limits {
        memory_bytes_max: 4 << 20,
        call_cpu_time_max: Duration::from_millis(50),
        emitted_bytes_max: 64 << 10,
        checkpoint_bytes_max: 4 << 10,
        plugin_bytes_max: 8 << 20,
    }
}

pub fn compile(bytes: &[u8]) -> Result<Arc<dyn Plugin>, Rejection> {
    Engine::new(EngineConfig::default())
        .unwrap()
        .compile(bytes, &limits())
}

/// The probe with one entity open.
pub struct Probe {
    pub instance: Box<dyn Instance>,
    pub entity: EntityId,
}

impl Probe {
    pub fn new() -> Self {
        let plugin = compile(&probe_with(&[])).unwrap();
        Self::of(&*plugin)
    }

    pub fn of(plugin: &dyn Plugin) -> Self {
        let mut instance = plugin.instantiate().unwrap();
        let entity = instance.open("a", None).unwrap();
        Self { instance, entity }
    }

    /// Processes one event for each value.
    pub fn process(&mut self, values: &[&str]) -> Result<Outcome, Failure> {
        process(&mut *self.instance, self.entity, values)
    }

    /// The value of the only emission that an event leads to.
    pub fn answer(&mut self, value: &str) -> Bytes {
        let outcome = self.process(&[value]).unwrap();
        assert_eq!(outcome.emissions.len(), 1);
        outcome.emissions[0].value.clone().unwrap()
    }
}

pub fn process(
    instance: &mut dyn Instance,
    entity: EntityId,
    values: &[&str],
) -> Result<Outcome, Failure> {
    let records: Vec<Record> = values
        .iter()
        .enumerate()
        .map(|(n, value)| record(n as u64, value))
        .collect();
    let events: Vec<Event<'_>> = records
        .iter()
        .map(|record| Event { record, seed: 77 })
        .collect();
    instance.process(entity, &events)
}

pub fn record(offset: u64, value: &str) -> Record {
    Record {
        offset: Offset(offset),
        timestamp_ms: 1_700_000_000_000 + offset,
        key: Some(Bytes::from_static(b"a")),
        headers: vec![Header::new("h", format!("{offset}"))],
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}
