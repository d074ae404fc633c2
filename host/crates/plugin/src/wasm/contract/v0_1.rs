//! Version 0.1 of the contract.
//!
//! Events go in borrowed: their bytes are copied once, into the plugin's
//! memory. Results are copied once, out of it.

use bytes::Bytes;
use courtside_types::Header;
use wasmtime::{
    Store,
    component::{InstancePre, ResourceAny},
};

use self::bindings::{
    Plugin, PluginPre, courtside::plugin::types as wit,
    exports::courtside::plugin::processor::Guest,
};
use super::{super::state::State, OpenAnswer};
use crate::{Description, Emission, Event, Outcome, Refusal, SavedState};

mod bindings {
    #![allow(missing_debug_implementations)] // generated
    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub struct Prepared(PluginPre<State>);

impl Prepared {
    pub fn new(pre: InstancePre<State>) -> wasmtime::Result<Self> {
        PluginPre::new(pre).map(Self)
    }

    pub fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Contract> {
        self.0.instantiate(store).map(Contract)
    }
}

pub struct Contract(Plugin);

impl Contract {
    fn processor(&self) -> &Guest {
        self.0.courtside_plugin_processor()
    }

    pub fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<Description> {
        let description = self.processor().call_describe(store)?;
        Ok(Description {
            name: description.name.into(),
            version: description.version.into(),
            writes: description.writes.into(),
            reads: description.reads.into_iter().map(Into::into).collect(),
        })
    }

    pub fn open(
        &self,
        store: &mut Store<State>,
        key: &str,
        saved: Option<&SavedState>,
    ) -> wasmtime::Result<OpenAnswer> {
        let saved = saved.map(|saved| wit::CheckpointParam {
            format: &saved.format,
            state: &saved.state,
        });
        let answer = self.processor().entity().call_open(store, key, saved)?;
        Ok(answer.map_or_else(OpenAnswer::Refusal, OpenAnswer::Entity))
    }

    pub fn process(
        &self,
        store: &mut Store<State>,
        entity: ResourceAny,
        events: &[Event<'_>],
    ) -> wasmtime::Result<Outcome> {
        // One vector has all headers, and each event takes its part of it. Most
        // events have none, and an empty vector allocates nothing.
        let headers: Vec<wit::HeaderParam<'_>> = events
            .iter()
            .flat_map(|event| &event.record.headers)
            .map(|header| wit::HeaderParam {
                name: &header.name,
                value: header.value.as_deref(),
            })
            .collect();
        let mut rest = headers.as_slice();
        let events: Vec<wit::Event<'_>> = events
            .iter()
            .map(|event| {
                let (headers, others) = rest.split_at(event.record.headers.len());
                rest = others;
                wit::Event {
                    offset: event.record.offset.0,
                    timestamp: event.record.timestamp_ms,
                    seed: event.seed,
                    headers,
                    value: event.record.value.as_deref().unwrap_or_default(),
                }
            })
            .collect();
        let outcome = self
            .processor()
            .entity()
            .call_process(store, entity, &events)?;
        Ok(Outcome {
            emissions: outcome.emissions.into_iter().map(emission).collect(),
            refused: outcome.refused.map(|refusal| Refusal {
                index: refusal.index as usize,
                reason: refusal.reason,
            }),
        })
    }

    pub fn checkpoint(
        &self,
        store: &mut Store<State>,
        entity: ResourceAny,
    ) -> wasmtime::Result<Option<SavedState>> {
        let saved = self.processor().entity().call_checkpoint(store, entity)?;
        Ok(saved.map(|saved| SavedState {
            format: saved.format.into(),
            state: saved.state.into(),
        }))
    }
}

fn emission(emission: wit::Emission) -> Emission {
    Emission {
        event: emission.event as usize,
        output: emission.output.map(Into::into),
        key: emission.key.map(Bytes::from),
        headers: emission
            .headers
            .into_iter()
            .map(|header| Header {
                name: header.name.into(),
                value: header.value.map(Bytes::from),
            })
            .collect(),
        value: emission.value.map(Bytes::from),
    }
}
