//! Operators' requests to a slot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use courtside_log::LogError;
use courtside_plugin_host::Rejection;
use courtside_process::clock::now_ms;
use courtside_types::{Digest, slot_name::SlotName};

use super::ManagerLoop;
use crate::slots::{
    files::{self, Entry},
    library::MissingPlugin,
    request::{Answer, Request, RequestError, RequestKind, RequestResult},
    slot::Slot,
    topic::Confirmation,
    view::FileState,
};

impl ManagerLoop {
    pub(super) fn answer(&mut self, request: Request) {
        let Request { slot, kind, answer } = request;
        let result = if self.group.is_caught_up() {
            match kind {
                RequestKind::Put(bytes) => match self.put(&slot, &bytes) {
                    Ok(path) => {
                        self.compiles.wait(&slot, &path, answer);
                        let taken = self.take(&slot, &path);
                        return self.conclude(&slot, taken);
                    }
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
        // The operator who asked may have gone.
        drop(answer.send(result));
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
        // The slot exists from here on, even if its file cannot be written.
        self.slot(name);
        let path = self.path_to_write(name)?;
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

    /// The path at which the slot's file is written.
    fn path_to_write(&self, name: &SlotName) -> Result<PathBuf, RequestError> {
        match self.slots.entry(name) {
            // A key can be written in several ways.
            Some(Entry::File(_, path)) => Ok(path.clone()),
            Some(Entry::Ambiguous) => Err(ambiguous()),
            Some(Entry::Unreadable(_)) | None => Ok(self.setup.dir.join(name.file())),
        }
    }

    /// Withdraws the directives against a plugin, and the verdict of its rehearsal,
    /// since somebody wants the plugin after all.
    fn want(&mut self, name: &SlotName, digest: Digest) -> Result<(), LogError> {
        for place in self.group.directives().places_against(name, digest) {
            self.group.withdraw(name, place)?;
        }
        self.withdraw_directives();
        if self.group.directives().is_rolled_back(name, digest) {
            self.release(name, digest);
        }
        let is_unfit = self.unfit.failure(name, digest).is_some();
        if is_unfit && self.slots.plugin_in_force(name).is_some() {
            self.unfit.remove(name);
            self.note_as_it_is(name);
        }
        Ok(())
    }

    /// Removes a file of the plugin directory, and swaps at once.
    fn delete(&mut self, name: &SlotName) -> RequestResult {
        self.look();
        let path = match self.existing(name)?.entry() {
            Some(Entry::File(_, path)) => path.clone(),
            // A link to nothing can be removed like any other.
            Some(Entry::Unreadable(_)) => self.setup.dir.join(name.file()),
            Some(Entry::Ambiguous) => return Err(ambiguous()),
            None => return Err(self.no_such_slot(name)),
        };
        self.can_rehearse_now(name)?;
        fs::remove_file(&path).map_err(|error| unwritable(&path, &error))?;
        self.look();
        if self.slots.get(name).is_none() {
            // No plugin ran in the slot, so it is gone with its file. It is made anew
            // to be shown.
            self.slot(name);
            return self.view(name);
        }
        let taken = self.remove(name);
        self.result(name, taken)
    }

    /// Makes the slot's file the plugin that runs; removes the file where no plugin
    /// runs.
    fn restore_file(&mut self, name: &SlotName) -> RequestResult {
        self.look();
        let slot = self.existing(name)?;
        let path = self.path_to_write(name)?;
        match (slot.file().state, slot.digest()) {
            (FileState::Runs, _) | (FileState::None, None) => return self.view(name),
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
        let Some(Entry::File(..)) = self.slot(name).entry() else {
            return self.view(name);
        };
        let taken = self.take(name, &path);
        self.result(name, taken)
    }

    /// Lets the plugin that runs in a slot stay: here, and on all hosts.
    fn confirm(&mut self, name: &SlotName) -> RequestResult {
        let slot = self.existing(name)?;
        let digest = slot.digest();
        let confirmation = Confirmation {
            slot: name.clone(),
            digest,
            at_ms: now_ms(),
        };
        self.group.confirm(confirmation)?;
        tracing::info!(slot = %self.slots.full_name(name), digest = digest.map(|digest| digest.short()), "plugin confirmed, it can no longer be rolled back");
        self.give_confirmations();
        self.publish();
        self.view(name)
    }

    fn existing(&self, name: &SlotName) -> Result<&Slot, RequestError> {
        let slot = self.slots.get(name);
        slot.ok_or_else(|| self.no_such_slot(name))
    }

    fn no_such_slot(&self, name: &SlotName) -> RequestError {
        RequestError::NoSuchSlot(self.slots.full_name(name))
    }

    /// A slot as operators see it.
    pub(super) fn view(&self, name: &SlotName) -> RequestResult {
        let view = self.views.view(self.existing(name)?, self.group.records());
        Ok(Answer::Slot(Box::new(view)))
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
