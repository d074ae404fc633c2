//! Compiling beside the manager's loop. The loop does not wait for a compile, and
//! meanwhile sees to orders to go back, removals and operators' questions.
//!
//! A manager has one compile at a time; other files wait for their turn. The end of a
//! compile wakes the loop, which then takes the file as if it had been compiled at
//! once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use courtside_plugin_host::{CompileRun, Lane, Plugin, Rejection, wasm::rejection};
use courtside_types::{Digest, slot_name::SlotName};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tokio::sync::oneshot;

use super::{manager_loop::ManagerLoop, swap::SwapOutcome};
use crate::{
    slots::{
        files::Entry,
        request::{RequestError, RequestResult},
        slot::Slot,
    },
    worker::metrics,
};

/// Operators who wait for the end of a swap, at most.
const PUTS_MAX: usize = 64;

type Outcome = Result<Arc<dyn Plugin>, Rejection>;

/// The compile of one slot's file. Dropping this ends the compile.
struct Job {
    slot: SlotName,
    path: PathBuf,
    digest: Digest,
    /// The directory's entry of the file, as it was when the compile began.
    seen: Option<Entry>,
    stop: Arc<AtomicBool>,
    outcome: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(slot = %self.slot, "the thread that compiled a plugin panicked");
        }
    }
}

/// A file that an operator put, and waits for.
struct Put {
    path: PathBuf,
    answer: oneshot::Sender<RequestResult>,
}

/// The manager's compile jobs, and the requests that wait for them.
pub(super) struct Compiles {
    job: Option<Job>,
    puts: BTreeMap<SlotName, Put>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Compiles {
    pub fn new() -> Self {
        let (wake, woken) = crossbeam_channel::bounded(1);
        Self {
            job: None,
            puts: BTreeMap::new(),
            wake,
            woken,
        }
    }

    /// A channel that tells when a compile has ended.
    pub fn woken(&self) -> Receiver<()> {
        self.woken.clone()
    }

    /// Whether a slot's file has to wait: another is being compiled, or this very
    /// one is.
    pub fn is_waiting(&self, name: &SlotName, seen: Option<&Entry>) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| job.slot != *name || job.seen.as_ref() == seen)
    }

    /// Whether one more operator may wait.
    pub fn has_room(&mut self) -> bool {
        self.puts.retain(|_, put| !put.answer.is_closed());
        self.puts.len() < PUTS_MAX
    }

    /// The slot whose file has been compiled, or whose operator waits for a turn,
    /// with that file.
    fn next(&self) -> Option<(SlotName, PathBuf)> {
        match &self.job {
            Some(job) if job.outcome.is_empty() && !job.is_over() => None,
            Some(job) => Some((job.slot.clone(), job.path.clone())),
            None => {
                let (slot, put) = self.puts.first_key_value()?;
                Some((slot.clone(), put.path.clone()))
            }
        }
    }
}

impl Job {
    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl ManagerLoop {
    /// The outcome of compiling a slot's file; none as long as the compile is under
    /// way, or waits for another.
    pub fn compiled(
        &mut self,
        name: &SlotName,
        path: &Path,
        digest: Digest,
        bytes: &[u8],
    ) -> Option<Outcome> {
        match self.compiles.job.take() {
            Some(job) if job.slot != *name => {
                self.compiles.job = Some(job);
                return None;
            }
            Some(job) if job.digest == digest => match job.outcome.try_recv() {
                Ok(outcome) => return Some(outcome),
                Err(TryRecvError::Empty) => {
                    self.compiles.job = Some(job);
                    return None;
                }
                Err(TryRecvError::Disconnected) => {
                    return Some(Err(not_tried("the thread that compiled it panicked")));
                }
            },
            // Another file came: the compile of the one before ends here.
            Some(_) | None => {}
        }
        match self.begin(name, path, digest, bytes) {
            Ok(job) => {
                self.compiles.job = Some(job);
                None
            }
            Err(error) => Some(Err(not_tried(&format!(
                "the thread that compiles it cannot start: {error}"
            )))),
        }
    }

    fn begin(
        &self,
        name: &SlotName,
        path: &Path,
        digest: Digest,
        bytes: &[u8],
    ) -> std::io::Result<Job> {
        let run = CompileRun {
            lane: Lane::Swap,
            stop: Arc::default(),
        };
        let stop = Arc::clone(&run.stop);
        let (done, outcome) = crossbeam_channel::bounded(1);
        let wake = self.compiles.wake.clone();
        let compiler = Arc::clone(&self.setup.compiler);
        let pipeline = Arc::clone(&self.setup.pipeline);
        let (slot, bytes) = (name.clone(), bytes.to_vec());
        let thread = std::thread::Builder::new()
            .name("slot-compile".into())
            .spawn(move || {
                let started = Instant::now();
                let compiled = compiler.compile_for(&bytes, pipeline.limits_of(&slot), &run);
                metrics::swap_took(&pipeline.name, "compile", started.elapsed());
                // Nobody may want the outcome any more. A full channel wakes the loop
                // as well.
                drop(done.try_send(compiled));
                let _ = wake.try_send(());
            })?;
        Ok(Job {
            slot: name.clone(),
            path: path.to_owned(),
            digest,
            seen: self.slots.get(name).and_then(Slot::seen).cloned(),
            stop,
            outcome,
            thread: Some(thread),
        })
    }

    /// Goes on with the file that has been compiled, and with those that operators
    /// put meanwhile.
    pub fn go_on_compiled(&mut self) {
        let has_file = |name: &SlotName| self.slots.get(name).is_some_and(Slot::has_file);
        self.compiles.job.take_if(|job| !has_file(&job.slot));
        while let Some((name, path)) = self.compiles.next() {
            if self.is_stopping() || !self.can_rehearse(&name) {
                return;
            }
            let taken = self.take(&name, &path);
            self.conclude(&name, taken);
        }
    }

    /// Answers the operator who put a slot's file, unless the file is still being
    /// compiled.
    pub fn conclude(&mut self, name: &SlotName, taken: SwapOutcome) {
        if matches!(taken, SwapOutcome::Compiling) {
            self.publish();
            return;
        }
        // A compile whose file is no longer the slot's is of no use.
        self.compiles.job.take_if(|job| job.slot == *name);
        let answered = self.taken(name, taken);
        if let Some(put) = self.compiles.puts.remove(name) {
            // The operator who asked may have gone.
            drop(put.answer.send(answered));
        }
    }

    /// Takes a file that an operator put, and answers once that has ended. An operator
    /// who put another file before is told that this one replaces it.
    pub fn take_put(
        &mut self,
        name: &SlotName,
        path: PathBuf,
        answer: oneshot::Sender<RequestResult>,
    ) {
        let put = Put {
            path: path.clone(),
            answer,
        };
        if let Some(before) = self.compiles.puts.insert(name.clone(), put) {
            let superseded = RequestError::Refused {
                code: "plugin-superseded",
                reason: "another file was put into the slot before this one was in force"
                    .to_owned(),
            };
            drop(before.answer.send(Err(superseded)));
        }
        let taken = self.take(name, &path);
        self.conclude(name, taken);
    }

    /// Ends the compile under way, and answers all operators who wait, since the host
    /// stops.
    pub fn end_compiles(&mut self) {
        self.compiles.job = None;
        for put in std::mem::take(&mut self.compiles.puts).into_values() {
            drop(put.answer.send(Err(RequestError::Stopping)));
        }
    }
}

fn not_tried(why: &str) -> Rejection {
    Rejection {
        code: rejection::NOT_TRIED,
        message: why.to_owned(),
    }
}
