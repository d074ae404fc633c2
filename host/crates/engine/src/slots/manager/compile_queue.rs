//! Compiling beside the manager's loop. The loop does not wait for a compile, and
//! meanwhile follows directives, removes plugins and answers operators.
//!
//! A manager has one compile at a time; other files wait for their turn. The end of a
//! compile wakes the loop, which then takes the file as if it had been compiled at
//! once.
//!
//! Only the file that is compiled and other new files wait for a compile. A plugin that
//! ran before is compiled in a lane of its own ([`Lane::Restore`]).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use courtside_plugin_host::{CompileRun, Compiler, Lane, Plugin, Rejection, wasm::rejection};
use courtside_types::{Digest, slot_name::SlotName};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tokio::sync::oneshot;

use crate::{
    pipeline::Pipeline,
    slots::{
        files::Entry,
        request::{RequestError, RequestResult},
    },
    worker::metrics,
};

/// Operators who wait for the end of a swap, at most.
const PUTS_MAX: usize = 64;

/// A slot's file that is to be compiled.
pub(super) struct PluginFile<'a> {
    pub slot: &'a SlotName,
    pub path: &'a Path,
    /// The directory's entry of the file.
    pub entry: Option<&'a Entry>,
    pub digest: Digest,
    pub bytes: &'a [u8],
}

/// How far a file is.
pub(super) enum Compile {
    /// The file is being compiled, or waits for another.
    UnderWay,
    Done(Arc<dyn Plugin>),
    Rejected(Rejection),
}

/// The compile of one slot's file. Dropping this ends the compile.
struct Job {
    slot: SlotName,
    path: PathBuf,
    digest: Digest,
    /// The directory's entry of the file, as it was when the compile began.
    entry: Option<Entry>,
    stop: Arc<AtomicBool>,
    outcome: Receiver<Result<Arc<dyn Plugin>, Rejection>>,
    thread: Option<JoinHandle<()>>,
}

impl Job {
    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
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

/// The manager's compile, and the operators that wait for a file to be in force.
pub(super) struct CompileQueue {
    compiler: Arc<dyn Compiler>,
    pipeline: Arc<Pipeline>,
    job: Option<Job>,
    puts: BTreeMap<SlotName, Put>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl CompileQueue {
    pub fn new(compiler: Arc<dyn Compiler>, pipeline: Arc<Pipeline>) -> Self {
        let (wake, woken) = crossbeam_channel::bounded(1);
        Self {
            compiler,
            pipeline,
            job: None,
            puts: BTreeMap::new(),
            wake,
            woken,
        }
    }

    /// A channel that gets a message when a compile has ended.
    pub fn woken(&self) -> Receiver<()> {
        self.woken.clone()
    }

    /// Whether a slot's file has to wait: another is being compiled, or this very
    /// one is.
    pub fn is_waiting(&self, slot: &SlotName, entry: Option<&Entry>) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| job.slot != *slot || job.entry.as_ref() == entry)
    }

    /// The slot whose file has been compiled, or whose operator waits for a turn,
    /// with that file.
    pub fn next(&self) -> Option<(SlotName, PathBuf)> {
        match &self.job {
            Some(job) if job.outcome.is_empty() && !job.is_over() => None,
            Some(job) => Some((job.slot.clone(), job.path.clone())),
            None => {
                let (slot, put) = self.puts.first_key_value()?;
                Some((slot.clone(), put.path.clone()))
            }
        }
    }

    /// How far a slot's file is. The compile begins, if no other is under way.
    pub fn compile(&mut self, file: &PluginFile<'_>) -> Compile {
        match self.job.take() {
            Some(job) if job.slot != *file.slot => {
                self.job = Some(job);
                return Compile::UnderWay;
            }
            Some(job) if job.digest == file.digest => match job.outcome.try_recv() {
                Ok(Ok(plugin)) => return Compile::Done(plugin),
                Ok(Err(rejection)) => return Compile::Rejected(rejection),
                Err(TryRecvError::Empty) => {
                    self.job = Some(job);
                    return Compile::UnderWay;
                }
                Err(TryRecvError::Disconnected) => {
                    return not_tried("the thread that compiled it panicked");
                }
            },
            // Another file came: the compile of the one before ends here.
            Some(_) | None => {}
        }
        match self.begin(file) {
            Ok(job) => {
                self.job = Some(job);
                Compile::UnderWay
            }
            Err(error) => not_tried(&format!(
                "the thread that compiles it cannot start: {error}"
            )),
        }
    }

    fn begin(&self, file: &PluginFile<'_>) -> io::Result<Job> {
        let run = CompileRun {
            lane: Lane::Swap,
            stop: Arc::default(),
        };
        let stop = Arc::clone(&run.stop);
        let (done, outcome) = crossbeam_channel::bounded(1);
        let wake = self.wake.clone();
        let compiler = Arc::clone(&self.compiler);
        let pipeline = Arc::clone(&self.pipeline);
        let (slot, bytes) = (file.slot.clone(), file.bytes.to_vec());
        let thread = std::thread::Builder::new()
            .name("slot-compile".into())
            .spawn(move || {
                let started = Instant::now();
                let compiled = compiler.compile_for(&bytes, pipeline.limits_of(&slot), &run);
                metrics::swap_took(&pipeline.name, "compile", started.elapsed());
                // Perhaps nobody waits for the outcome. A full channel wakes the loop
                // as well.
                drop(done.try_send(compiled));
                let _ = wake.try_send(());
            })?;
        Ok(Job {
            slot: file.slot.clone(),
            path: file.path.to_owned(),
            digest: file.digest,
            entry: file.entry.cloned(),
            stop,
            outcome,
            thread: Some(thread),
        })
    }

    /// Ends the compile under way, unless its slot still has a file.
    pub fn end_without_file(&mut self, has_file: impl Fn(&SlotName) -> bool) {
        self.job.take_if(|job| !has_file(&job.slot));
    }

    /// Whether one more operator may wait.
    pub fn has_room(&mut self) -> bool {
        self.puts.retain(|_, put| !put.answer.is_closed());
        self.puts.len() < PUTS_MAX
    }

    /// Lets an operator wait for the file that the operator put. An operator who put
    /// another file before hears that this one replaces it.
    pub fn wait(&mut self, slot: &SlotName, path: &Path, answer: oneshot::Sender<RequestResult>) {
        let put = Put {
            path: path.to_owned(),
            answer,
        };
        if let Some(before) = self.puts.insert(slot.clone(), put) {
            let superseded = RequestError::Refused {
                code: "plugin-superseded",
                reason: "another file was put into the slot before this one was in force"
                    .to_owned(),
            };
            drop(before.answer.send(Err(superseded)));
        }
    }

    /// Ends the compile of a slot's file, which has been taken.
    pub fn end_of(&mut self, slot: &SlotName) {
        self.job.take_if(|job| job.slot == *slot);
    }

    /// Answers the operator who waits for a slot's file, if any.
    pub fn answer(&mut self, slot: &SlotName, result: RequestResult) {
        if let Some(put) = self.puts.remove(slot) {
            // The operator who asked may have gone.
            drop(put.answer.send(result));
        }
    }

    /// Ends the compile under way, and answers all operators who wait, since the host
    /// stops.
    pub fn end(&mut self) {
        self.job = None;
        for put in std::mem::take(&mut self.puts).into_values() {
            drop(put.answer.send(Err(RequestError::Stopping)));
        }
    }
}

fn not_tried(why: &str) -> Compile {
    Compile::Rejected(Rejection {
        code: rejection::NOT_TRIED,
        message: why.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use courtside_plugin_host::Limits;

    use super::*;
    use crate::worker::tests::pipeline;

    /// Rejects each file once the test allows it.
    struct Rejecting {
        allowed: Receiver<()>,
    }

    impl Compiler for Rejecting {
        fn compile_for(
            &self,
            bytes: &[u8],
            _: &Limits,
            run: &CompileRun,
        ) -> Result<Arc<dyn Plugin>, Rejection> {
            while self.allowed.recv_timeout(Duration::from_millis(5)).is_err()
                && !run.stop.load(Ordering::Relaxed)
            {}
            Err(Rejection {
                code: "plugin-invalid",
                message: String::from_utf8_lossy(bytes).into_owned(),
            })
        }
    }

    fn queue() -> (CompileQueue, Sender<()>) {
        let (allow, allowed) = crossbeam_channel::bounded(1);
        let queue = CompileQueue::new(Arc::new(Rejecting { allowed }), pipeline(1, 1));
        (queue, allow)
    }

    fn compile(queue: &mut CompileQueue, slot: &SlotName, bytes: &[u8]) -> Option<String> {
        let file = PluginFile {
            slot,
            path: Path::new("file"),
            entry: None,
            digest: Digest::of(bytes),
            bytes,
        };
        match queue.compile(&file) {
            Compile::UnderWay => None,
            Compile::Done(_) => panic!("compiled"),
            Compile::Rejected(rejection) => Some(rejection.message),
        }
    }

    fn wait(queue: &mut CompileQueue, slot: &SlotName) -> oneshot::Receiver<RequestResult> {
        let (answer, receiver) = oneshot::channel();
        queue.wait(slot, Path::new("put"), answer);
        receiver
    }

    #[test]
    fn a_second_file_waits_for_the_first() {
        let (mut queue, allow) = queue();
        let (one, two) = (SlotName::Default, SlotName::of_key(b"two"));
        assert!(!queue.is_waiting(&one, None));
        assert_eq!(compile(&mut queue, &one, b"1"), None);
        assert!(queue.is_waiting(&one, None) && queue.is_waiting(&two, None));
        assert!(
            !queue.is_waiting(&one, Some(&Entry::Ambiguous)),
            "it changed"
        );
        assert_eq!(compile(&mut queue, &two, b"2"), None);
        assert_eq!(queue.next(), None);
        allow.send(()).unwrap();
        let woken = queue.woken();
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(queue.next(), Some((one.clone(), "file".into())));
        assert_eq!(compile(&mut queue, &two, b"2"), None);
        assert_eq!(compile(&mut queue, &one, b"1").as_deref(), Some("1"));
        assert_eq!(compile(&mut queue, &two, b"2"), None);
        assert!(!queue.is_waiting(&two, Some(&Entry::Ambiguous)));
    }

    #[test]
    fn another_file_of_the_slot_ends_the_compile() {
        let (mut queue, allow) = queue();
        assert_eq!(compile(&mut queue, &SlotName::Default, b"1"), None);
        assert_eq!(compile(&mut queue, &SlotName::Default, b"2"), None);
        queue.woken().recv_timeout(Duration::from_secs(60)).unwrap();
        allow.send(()).unwrap();
        queue.woken().recv_timeout(Duration::from_secs(60)).unwrap();
        let outcome = compile(&mut queue, &SlotName::Default, b"2");
        assert_eq!(outcome.as_deref(), Some("2"));
    }

    #[test]
    fn a_compile_ends_with_its_file() {
        let (mut queue, _allow) = queue();
        assert_eq!(compile(&mut queue, &SlotName::Default, b"1"), None);
        queue.end_without_file(|_| true);
        queue.end_of(&SlotName::of_key(b"other"));
        assert!(queue.is_waiting(&SlotName::Default, None));
        queue.end_without_file(|_| false);
        assert!(!queue.is_waiting(&SlotName::Default, None));
    }

    #[test]
    fn each_operator_gets_an_answer() {
        let (mut queue, _allow) = queue();
        let slot = SlotName::Default;
        let mut first = wait(&mut queue, &slot);
        let mut second = wait(&mut queue, &slot);
        let Ok(Err(RequestError::Refused { code, .. })) = first.try_recv() else {
            panic!("no answer")
        };
        assert_eq!(code, "plugin-superseded");
        assert_eq!(queue.next(), Some((slot.clone(), "put".into())));
        queue.answer(&slot, Err(RequestError::Busy));
        assert_eq!(second.try_recv().unwrap(), Err(RequestError::Busy));
        assert_eq!(queue.next(), None);
        let mut third = wait(&mut queue, &slot);
        queue.end();
        assert_eq!(third.try_recv().unwrap(), Err(RequestError::Stopping));
    }

    #[test]
    fn operators_that_wait_are_bounded() {
        let (mut queue, _allow) = queue();
        let slots = (0..PUTS_MAX).map(|key| SlotName::of_key(format!("{key}").as_bytes()));
        let answers: Vec<_> = slots.map(|slot| wait(&mut queue, &slot)).collect();
        assert!(!queue.has_room());
        drop(answers);
        assert!(queue.has_room());
    }
}
