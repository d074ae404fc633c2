//! A compiled plugin.

use std::sync::atomic::Ordering;

use courtside_types::Digest;

use super::{
    guest::{Blueprint, Guest},
    instance::WasmInstance,
};
use crate::{Description, Failure, Instance, Plugin};

pub struct WasmPlugin {
    pub digest: Digest,
    pub description: Description,
    pub blueprint: Blueprint,
}

impl Plugin for WasmPlugin {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        let guest = Guest::start(&self.blueprint)?;
        let writes = self.description.writes.clone();
        Ok(Box::new(WasmInstance::new(guest, writes)))
    }

    fn memory_bytes(&self) -> u64 {
        self.blueprint.memory_bytes.load(Ordering::Relaxed)
    }
}
