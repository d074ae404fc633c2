//! The views of slots that HTTP handlers read while the manager works.

use std::{collections::BTreeMap, sync::Arc};

use courtside_types::slot_name::SlotName;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::slot_table::SlotTable;
use crate::{
    pipeline::Pipeline,
    slots::{
        group::{
            records::GroupRecords,
            swaps::{Swap, SwapHistory},
        },
        slot::Slot,
        time::timestamp,
        topic::Presence,
        view::{HostView, LimitsView, SlotView, SwapKind, SwapView},
    },
    worker::takeover::history::Kind,
};

/// Swaps of a slot that are shown.
const SWAPS_SHOWN: usize = 32;

/// The latest view of each slot.
pub type SlotViews = Arc<Mutex<BTreeMap<SlotName, SlotView>>>;

/// The writer of the views.
pub(super) struct ViewWriter {
    pipeline: Arc<Pipeline>,
    views: SlotViews,
}

impl ViewWriter {
    pub const fn new(pipeline: Arc<Pipeline>, views: SlotViews) -> Self {
        Self { pipeline, views }
    }

    /// Replaces the views of all slots.
    pub fn publish(&self, slots: &SlotTable, records: &GroupRecords) {
        let views = slots
            .iter()
            .map(|(name, slot)| (name.clone(), self.view(slot, records)))
            .collect();
        *self.views.lock() = views;
    }

    /// A slot as operators see it.
    pub fn view(&self, slot: &Slot, records: &GroupRecords) -> SlotView {
        let (name, now) = (&slot.name, Timestamp::now());
        let mut view = slot.view(LimitsView::of(&self.pipeline, name));
        view.agreed = records.is_agreed(name, now);
        let until = slot
            .digest()
            .and_then(|digest| match slot.trial_began_ms() {
                Some(began_ms) => records.trial_since(name, Some(digest), began_ms),
                None => records.trial_until(name, Some(digest)),
            });
        view.trial_until = until.map(timestamp).filter(|until| *until > now);
        view.hosts = records.present(name, now).map(host).collect();
        let swaps = records.swaps(name).into_iter().flat_map(SwapHistory::iter);
        let first = swaps.clone().count().saturating_sub(SWAPS_SHOWN);
        view.swaps_of_group = swaps.skip(first).map(swap).collect();
        view
    }
}

fn host(presence: &Presence) -> HostView {
    HostView {
        host: presence.host.to_string(),
        digest: presence.digest.map(|digest| digest.to_string()),
        state: presence.state,
        file: presence.file,
        redoing: presence.redoing,
        at: presence.at,
    }
}

fn swap(swap: &Swap) -> SwapView {
    SwapView {
        kind: match swap.kind {
            Kind::Swap => SwapKind::Swap,
            Kind::Rollback => SwapKind::Rollback,
            Kind::Return => SwapKind::Return,
        },
        digest: swap.digest.map(|digest| digest.to_string()),
        plugin: swap.plugin.to_string(),
        previous: swap.previous.map(|digest| digest.to_string()),
        attempt: swap.attempt,
        at: timestamp(swap.at_ms()),
        partitions: swap
            .places
            .iter()
            .map(|(partition, place)| (partition.to_string(), place.offset.0))
            .collect(),
    }
}
