//! The versions of the contract: the only place that knows there are several.
//!
//! A file for each released version translates to and from the types of
//! [`crate`]; the code that uses these types is written once, elsewhere.
//! A released version never changes, so its file does not either.

mod v0_1;

use semver::Version;
use wasmtime::{
    Store,
    component::{Component, InstancePre, ResourceAny, types::ComponentItem},
};

use super::{
    rejection::{self, rejection},
    state::State,
};
use crate::{Description, Event, Outcome, Rejection, SavedState};

/// The interface a plugin exports, without its version.
const PROCESSOR: &str = "courtside:plugin/processor";
/// The newest version this host knows.
const NEWEST: &str = "0.1.0";

/// A plugin whose exports are found, ready to be instantiated.
pub enum Prepared {
    V0_1(v0_1::Prepared),
}

impl Prepared {
    pub fn new(component: &Component, pre: InstancePre<State>) -> Result<Self, Rejection> {
        let component_type = component.component_type();
        let exports = component_type.exports(component.engine());
        let version = exported_version(exports.map(|(name, export)| {
            let is_instance = matches!(export.ty, ComponentItem::ComponentInstance(_));
            (name, is_instance)
        }))?;
        match version {
            Version {
                major: 0, minor: 1, ..
            } => v0_1::Prepared::new(pre).map(Self::V0_1).map_err(|error| {
                rejection(
                    rejection::WRONG_WORLD,
                    format!(
                        "it exports {PROCESSOR}@0.1, but not as the contract has it: {error:#}"
                    ),
                )
            }),
            version => Err(rejection(
                rejection::WRONG_WORLD,
                format!("it exports {PROCESSOR}@{version}, the newest this host knows is {NEWEST}"),
            )),
        }
    }

    pub fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Contract> {
        match self {
            Self::V0_1(prepared) => prepared.instantiate(store).map(Contract::V0_1),
        }
    }
}

/// The version of the contract that a component exports. Each export has a name, and
/// is an instance or not.
pub fn exported_version<'a>(
    exports: impl Iterator<Item = (&'a str, bool)>,
) -> Result<Version, Rejection> {
    /// Names of exports shown in the message.
    const SHOWN_MAX: usize = 8;
    let mut others = Vec::new();
    for (name, is_instance) in exports {
        let version = name
            .strip_prefix(PROCESSOR)
            .and_then(|rest| rest.strip_prefix('@'))
            .and_then(|version| Version::parse(version).ok());
        match version {
            Some(version) if is_instance => return Ok(version),
            _ => others.push(name),
        }
    }
    let exports = if others.is_empty() {
        "exports nothing".to_owned()
    } else {
        let shown: Vec<&str> = others.iter().copied().take(SHOWN_MAX).collect();
        let more = if others.len() > SHOWN_MAX {
            ", …"
        } else {
            ""
        };
        format!("exports {}{more}", shown.join(", "))
    };
    Err(rejection(
        rejection::WRONG_WORLD,
        format!("it {exports}; a plugin exports {PROCESSOR}@{NEWEST}"),
    ))
}

/// The answer of a plugin that is to open an entity.
pub enum OpenAnswer {
    Entity(ResourceAny),
    /// The plugin refuses, for its own reason.
    Refusal(String),
}

/// The functions of one instance, in the version of the contract that it speaks. All
/// of them run the plugin: its results have the contract's shape, but the caller must
/// check that they make sense.
pub enum Contract {
    V0_1(v0_1::Contract),
}

impl Contract {
    pub fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<Description> {
        match self {
            Self::V0_1(contract) => contract.describe(store),
        }
    }

    pub fn open(
        &self,
        store: &mut Store<State>,
        key: &str,
        saved: Option<&SavedState>,
    ) -> wasmtime::Result<OpenAnswer> {
        match self {
            Self::V0_1(contract) => contract.open(store, key, saved),
        }
    }

    pub fn process(
        &self,
        store: &mut Store<State>,
        entity: ResourceAny,
        events: &[Event<'_>],
    ) -> wasmtime::Result<Outcome> {
        match self {
            Self::V0_1(contract) => contract.process(store, entity, events),
        }
    }

    pub fn checkpoint(
        &self,
        store: &mut Store<State>,
        entity: ResourceAny,
    ) -> wasmtime::Result<Option<SavedState>> {
        match self {
            Self::V0_1(contract) => contract.checkpoint(store, entity),
        }
    }
}
