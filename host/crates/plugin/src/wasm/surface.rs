//! The exports and imports of a component, read from its bytes without compiling
//! them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wasmparser::{
    ComponentExternalKind, Parser, Payload, ValidPayload, Validator, WasmFeatures,
    component_types::ComponentEntityType,
    types::{Types, TypesRef},
};

use super::{
    contract,
    rejection::{self, rejection},
    wasi,
};
use crate::Rejection;

/// A component's exports and imports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surface {
    pub exports: Vec<String>,
    pub imports: Vec<Import>,
    /// The exports that are instances: only these can be the contract.
    #[serde(skip)]
    instances: BTreeSet<String>,
}

/// An import of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub name: String,
    /// Whether this host has it.
    pub offered: bool,
}

impl Surface {
    /// Reads the surface of a component, but no function bodies: the compiler checks
    /// those.
    pub fn of(bytes: &[u8]) -> Result<Self, Rejection> {
        read(bytes).map_err(|error| rejection(rejection::NOT_COMPILED, format!("{error:#}")))
    }

    /// Checks that the component may be a plugin, as far as names tell.
    pub fn check(&self) -> Result<(), Rejection> {
        if let Some(Import { name, .. }) = self.imports.iter().find(|import| !import.offered) {
            return Err(rejection(
                rejection::IMPORT_UNKNOWN,
                format!("it imports {name}, which this host does not offer"),
            ));
        }
        let exports = self.exports.iter().map(|name| {
            let is_instance = self.instances.contains(name);
            (name.as_str(), is_instance)
        });
        contract::exported_version(exports).map(drop)
    }
}

fn read(bytes: &[u8]) -> Result<Surface, wasmparser::BinaryReaderError> {
    let mut surface = Surface {
        exports: Vec::new(),
        imports: Vec::new(),
        instances: BTreeSet::new(),
    };
    // All features pass here: the compiler decides which ones a plugin may use.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut depth = 0_usize;
    let mut types: Option<Types> = None;
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.clone() {
                    imports.push(import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.clone() {
                    let export = export?;
                    let name = export.name.name.to_owned();
                    if export.kind == ComponentExternalKind::Instance {
                        surface.instances.insert(name.clone());
                    }
                    surface.exports.push(name);
                }
            }
            _ => {}
        }
        if let ValidPayload::End(ended) = validator.payload(&payload)? {
            // The types of the outermost component come last.
            types = Some(ended);
        }
    }
    let types = types.as_ref().map(Types::as_ref);
    surface.imports = imports
        .into_iter()
        .map(|name| Import {
            name: name.to_owned(),
            offered: wasi::link::offers(name, || {
                types.is_some_and(|types| is_only_types(types, name))
            }),
        })
        .collect();
    Ok(surface)
}

/// An interface of types alone (the contract's own is one) has nothing to link.
#[allow(
    clippy::indexing_slicing,
    reason = "the id comes from these types, which offer nothing else to look it up"
)]
fn is_only_types(types: TypesRef<'_>, import: &str) -> bool {
    match types.component_item_for_import(import).map(|item| item.ty) {
        Some(ComponentEntityType::Type { .. }) => true,
        Some(ComponentEntityType::Instance(instance)) => types[instance]
            .exports
            .values()
            .all(|export| matches!(export.ty, ComponentEntityType::Type { .. })),
        _ => false,
    }
}
