//! Operators' requests to a slot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use courtside_log::LogError;
use courtside_plugin_host::Rejection;
use courtside_types::{Digest, slot_name::SlotName};
use tokio::sync::oneshot;

use super::{manager_loop::ManagerLoop, swap::SwapOutcome};
use crate::slots::{
    files::{self, Entry},
    library::MissingPlugin,
    request::{Answer, Request, RequestError, RequestKind, RequestResult},
    topic::{self, TopicRecord},
    view::FileState,
};

impl ManagerLoop {
    pub fn answer(&mut self, request: Request) {
        let Request { slot, kind, answer } = request;
        let answered = if self.group.is_known() {
            match kind {
                RequestKind::Put(bytes) => match self.put(&slot, &bytes) {
                    Ok(path) => return self.take_put(&slot, path, answer),
                    Err(error) => Err(error),
                },
                RequestKind::Remove => self.delete(&slot),
                RequestKind::Plan(of) => self
                    .plan(&slot, of)
                    .map(|plan| Answer::Rollback(Box::new(plan.view))),
                // An operator who gave up may ask again, which would be a second
                // rollback.
                RequestKind::RollBack(_) if answer.is_closed() => {
                    tracing::warn!(%slot, "rollback dropped: its operator stopped waiting before it began");
                    return;
                }
                RequestKind::RollBack(of) => return self.order_rollback(&slot, of, answer),
                RequestKind::Confirm => self.confirm(&slot),
                RequestKind::RestoreFile => self.restore_file(&slot),
            }
        } else {
            Err(RequestError::Log(LogError::Unavailable {
                reason: "the host has not read the group's records about plugins yet".to_owned(),
            }))
        };
        tell(answer, answered);
    }

    /// Puts a file into the plugin directory, to be swapped to at once.
    fn put(&mut self, name: &SlotName, bytes: &Bytes) -> Result<PathBuf, RequestError> {
        let bytes_max = self.setup.pipeline.limits_of(name).plugin_bytes_max;
        if bytes.len() > bytes_max {
            return Err(RequestError::Rejected(Rejection {
                code: "plugin-too-large",
                message: format!(
                    "it has {} bytes, the limit plugin_bytes_max is {bytes_max}",
                    bytes.len()
                ),
            }));
        }
        if !self.compiles.has_room() {
            return Err(RequestError::Busy);
        }
        self.can_rehearse_now(name)?;
        self.look();
        let path = match self.slot(name).seen() {
            // A key can be written in several ways.
            Some(Entry::There(_, path)) => path.clone(),
            Some(Entry::Ambiguous) => return Err(ambiguous()),
            _ => self.setup.dir.join(name.file()),
        };
        self.want(name, Digest::of(bytes))?;
        files::put(&path, &self.setup.pipeline.host, bytes)
            .map_err(|error| unwritable(&path, &error))?;
        self.setup.compiler.forget(Digest::of(bytes));
        self.look();
        Ok(path)
    }

    fn can_rehearse_now(&self, name: &SlotName) -> Result<(), LogError> {
        if self.can_rehearse(name) {
            return Ok(());
        }
        Err(LogError::Unavailable {
            reason: "the host has no partitions yet, so it cannot rehearse a plugin with their checkpoints"
                .to_owned(),
        })
    }

    /// Withdraws the orders to go back from a plugin, and the verdict of its rehearsal,
    /// since somebody wants the plugin after all.
    fn want(&mut self, name: &SlotName, digest: Digest) -> Result<(), LogError> {
        let directives = self.group.known().directives();
        for place in directives.places_against(name, digest) {
            self.group.tail().say(topic::no_directive(name, place))?;
            let slot = name.clone();
            self.group
                .known_mut()
                .record(TopicRecord::Withdrawn { slot, place });
        }
        self.withdraw_where_told();
        if self.is_undone(name, digest) {
            self.forgive(name, digest);
        }
        if self.is_unfit(name, digest) {
            self.unfit.remove(name);
            self.note_as_it_is(name);
        }
        Ok(())
    }

    /// Removes a file of the plugin directory, and swaps at once.
    fn delete(&mut self, name: &SlotName) -> RequestResult {
        self.look();
        let full_name = format!("{}/{name}", self.setup.pipeline.name);
        let Some(slot) = self.slots.get(name) else {
            return Err(RequestError::NoSuchSlot(full_name));
        };
        let path = match slot.seen() {
            Some(Entry::There(_, path)) => path.clone(),
            // A link to nothing can be removed like any other.
            Some(Entry::Unreadable(_)) => self.setup.dir.join(name.file()),
            Some(Entry::Ambiguous) => return Err(ambiguous()),
            None => return Err(RequestError::NoSuchSlot(full_name)),
        };
        self.can_rehearse_now(name)?;
        fs::remove_file(&path).map_err(|error| unwritable(&path, &error))?;
        self.look();
        if !self.slots.contains_key(name) {
            // No plugin ran in the slot, so it is gone with its file. It is made anew
            // to be shown.
            self.slot(name);
            return self.shown(name);
        }
        let taken = self.remove(name);
        self.taken(name, taken)
    }

    /// Makes the slot's file the plugin that runs; removes the file where no plugin
    /// runs.
    fn restore_file(&mut self, name: &SlotName) -> RequestResult {
        self.look();
        let Some(slot) = self.slots.get(name) else {
            return Err(self.no_such_slot(name));
        };
        let path = match slot.seen() {
            Some(Entry::There(_, path)) => path.clone(),
            Some(Entry::Ambiguous) => return Err(ambiguous()),
            _ => self.setup.dir.join(name.file()),
        };
        match (slot.file().state, slot.digest()) {
            (FileState::Runs, _) | (FileState::None, None) => return self.shown(name),
            // Somebody has just offered the file.
            (FileState::New, _) => {
                return Err(RequestError::Refused {
                    code: "plugin-file-unsteady",
                    reason: "the slot's file has changed, and the host has not decided on it yet"
                        .to_owned(),
                });
            }
            (_, Some(digest)) => {
                let bytes = self.setup.library.load(digest).map_err(not_kept)?;
                files::put(&path, &self.setup.pipeline.host, &bytes)
                    .map_err(|error| unwritable(&path, &error))?;
            }
            (_, None) => fs::remove_file(&path).map_err(|error| unwritable(&path, &error))?,
        }
        self.look();
        self.unfit.remove(name);
        self.note_as_it_is(name);
        let Some(Entry::There(..)) = self.slot(name).seen() else {
            return self.shown(name);
        };
        let taken = self.take(name, &path);
        self.taken(name, taken)
    }

    fn no_such_slot(&self, name: &SlotName) -> RequestError {
        RequestError::NoSuchSlot(format!("{}/{name}", self.setup.pipeline.name))
    }

    /// A slot as operators see it.
    pub fn shown(&self, name: &SlotName) -> RequestResult {
        match self.slots.get(name) {
            Some(slot) => Ok(Answer::Slot(Box::new(self.group.view(name, slot)))),
            None => Err(RequestError::NoSuchSlot(format!(
                "{}/{name}",
                self.setup.pipeline.name
            ))),
        }
    }

    /// The outcome of a file that was taken.
    pub fn taken(&mut self, name: &SlotName, taken: SwapOutcome) -> RequestResult {
        if !matches!(taken, SwapOutcome::Later(_) | SwapOutcome::Compiling) {
            self.slot(name).handled();
        }
        self.publish();
        match taken {
            SwapOutcome::Runs | SwapOutcome::Left | SwapOutcome::Compiling => self.shown(name),
            SwapOutcome::Rejected(rejection) => Err(rejection.into()),
            SwapOutcome::Later(why) => Err(why),
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> RequestError {
    RequestError::Refused {
        code: "plugin-dir-unwritable",
        reason: format!("{}: {error}", path.display()),
    }
}

fn not_kept(missing: MissingPlugin) -> RequestError {
    match missing {
        MissingPlugin::Log(error) => error.into(),
        MissingPlugin::Nowhere(_) | MissingPlugin::Damaged(_) => RequestError::Refused {
            code: "plugin-not-kept",
            reason: missing.to_string(),
        },
    }
}

fn ambiguous() -> RequestError {
    RequestError::Refused {
        code: "plugin-file-unreadable",
        reason: files::AMBIGUOUS.to_owned(),
    }
}

fn tell(answer: oneshot::Sender<RequestResult>, answered: RequestResult) {
    // The operator who asked may have gone.
    drop(answer.send(answered));
}
