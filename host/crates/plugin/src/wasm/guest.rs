//! A plugin running in a store of its own, and the guard around every call of
//! it, which sets limits before the call and classifies a failure after it.

use std::sync::{Arc, atomic::AtomicU64};

use wasmtime::{Store, component::ResourceAny};

use super::{
    contract::{Contract, OpenAnswer, Prepared},
    deadline::{Lease, Ticker},
    failure::{Call, broken, failure},
    state::State,
    wasi::PluginLog,
};
use crate::{Description, Event, Failure, FailureKind, Limits, Outcome, SavedState};

/// The parts that guests of one plugin are made from.
pub struct Blueprint {
    pub engine: wasmtime::Engine,
    pub prepared: Prepared,
    pub limits: Limits,
    pub log: Arc<PluginLog>,
    pub ticker: Arc<Ticker>,
    /// Memory of all guests of the plugin.
    pub memory_bytes: Arc<AtomicU64>,
}

pub struct Guest {
    store: Store<State>,
    contract: Contract,
    limits: Limits,
    /// The failure that ended the guest: wasmtime enters no instance after a trap.
    ended: Option<Failure>,
    _ticks: Lease,
}

impl Guest {
    pub fn start(blueprint: &Blueprint) -> Result<Self, Failure> {
        let Blueprint {
            engine,
            prepared,
            limits,
            log,
            ticker,
            memory_bytes,
        } = blueprint;
        let ticks = ticker.lease();
        let mut store = Store::new(
            engine,
            State::new(limits, Arc::clone(log), Arc::clone(memory_bytes)),
        );
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| store.data_mut().budget.check());
        arm(&mut store, limits, Call::Start);
        let contract = prepared
            .instantiate(&mut store)
            .map_err(|error| failure(Call::Start, &error, store.data_mut(), limits))?;
        Ok(Self {
            store,
            contract,
            limits: limits.clone(),
            ended: None,
            _ticks: ticks,
        })
    }

    pub fn describe(&mut self) -> Result<Description, Failure> {
        self.call(Call::Describe, |contract, store| contract.describe(store))
    }

    pub fn open(&mut self, key: &str, saved: Option<&SavedState>) -> Result<OpenAnswer, Failure> {
        self.call(Call::Open, |contract, store| {
            contract.open(store, key, saved)
        })
    }

    pub fn process(
        &mut self,
        entity: ResourceAny,
        events: &[Event<'_>],
    ) -> Result<Outcome, Failure> {
        self.call(Call::Process, |contract, store| {
            contract.process(store, entity, events)
        })
    }

    pub fn checkpoint(&mut self, entity: ResourceAny) -> Result<Option<SavedState>, Failure> {
        self.call(Call::Checkpoint, |contract, store| {
            contract.checkpoint(store, entity)
        })
    }

    /// Runs the plugin's destructor.
    pub fn close(&mut self, entity: ResourceAny) -> Result<(), Failure> {
        self.call(Call::Close, |_, store| entity.resource_drop(store))
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends the guest because the host found a fault in the result of a call.
    pub fn end(&mut self, call: Call, kind: FailureKind, what: impl std::fmt::Display) -> Failure {
        let failure = broken(call, kind, what);
        self.ended = Some(failure.clone());
        failure
    }

    fn call<R>(
        &mut self,
        call: Call,
        run: impl FnOnce(&Contract, &mut Store<State>) -> wasmtime::Result<R>,
    ) -> Result<R, Failure> {
        if let Some(ended) = &self.ended {
            let what = format!("the instance had failed before: {}", ended.message);
            return Err(broken(call, ended.kind, what));
        }
        arm(&mut self.store, &self.limits, call);
        run(&self.contract, &mut self.store).map_err(|error| {
            let failure = failure(call, &error, self.store.data_mut(), &self.limits);
            self.ended = Some(failure.clone());
            failure
        })
    }
}

/// Sets the limits of one call. Every call makes this, so it only stores a few
/// numbers.
fn arm(store: &mut Store<State>, limits: &Limits, call: Call) {
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(call.fuel(limits));
    store.data_mut().begin_call();
}
