//! The loop without workers, on the embedded log.

use std::{
    fs,
    path::{Path, PathBuf},
};

use courtside_log::{
    RecordLog,
    conformance::compacted,
    embedded::{Embedded, EmbeddedConfig},
};
use courtside_plugin_host::{CompileRun, Compiler, Limits, Plugin};
use courtside_types::PartitionId;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::{
    slots::{
        library::Library,
        manager::SlotsConfig,
        request::{Answer, RequestError, RequestKind, RequestResult},
        store::PluginStore,
        topic,
        view::{FileState, SlotView},
    },
    worker::{
        status::{PartitionStatus, PipelineStatus},
        takeover::Directive,
        tests::{Faulty, pipeline},
    },
};

const SLOT: SlotName = SlotName::Default;

/// Makes any file a plugin, unless it begins with `bad`.
struct TestCompiler;

impl Compiler for TestCompiler {
    fn compile_for(
        &self,
        bytes: &[u8],
        _: &Limits,
        _: &CompileRun,
    ) -> Result<Arc<dyn Plugin>, Rejection> {
        let name = String::from_utf8_lossy(bytes);
        if name.starts_with("bad") {
            return Err(Rejection {
                code: "plugin-invalid",
                message: "it is bad".to_owned(),
            });
        }
        Ok(Faulty::new(&name, &["faulty/1"]))
    }
}

struct Place {
    dir: TempDir,
    log: Arc<Embedded>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path().join("log"), EmbeddedConfig::default()).unwrap();
        log.ensure_topics(&[compacted(&topic::name("test"), 1)])
            .unwrap();
        Self { dir, log }
    }

    fn file(&self, slot: &SlotName) -> PathBuf {
        self.dir.path().join("dir").join(slot.file())
    }

    fn write(&self, slot: &SlotName, bytes: &str) {
        let path = self.file(slot);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A manager that has begun nothing.
    fn manager(&self) -> ManagerLoop {
        let pipeline = pipeline(1, 1);
        let log: Arc<dyn RecordLog> = Arc::<Embedded>::clone(&self.log);
        let store = PluginStore::open(self.dir.path().join("copies")).unwrap();
        let topic = topic::place("test");
        let status = PipelineStatus::default();
        let partition = PartitionStatus {
            worker: 0,
            state: PartitionState::Running,
            code: None,
            reason: None,
        };
        status.set(PartitionId(0), partition);
        let setup = Setup {
            compiler: Arc::new(TestCompiler),
            checkpoints: log.checkpoints(&pipeline.group).unwrap(),
            partitions: vec![PartitionId(0)],
            workers: Vec::new(),
            status: Arc::new(status),
            dir: self.dir.path().join("dir"),
            library: Arc::new(Library::new(store, Arc::clone(&log), topic.topic.clone())),
            topic,
            config: SlotsConfig {
                settle: Duration::ZERO,
                ..SlotsConfig::default()
            },
            log,
            pipeline,
        };
        ManagerLoop::new(setup, SlotViews::default(), Arc::default())
    }

    /// A manager that has started the plugins that ran before.
    fn started(&self) -> ManagerLoop {
        let mut manager = self.manager();
        manager.read_topic();
        assert!(manager.group.is_caught_up());
        manager.look();
        manager.restore();
        manager.look();
        manager
    }
}

fn view(manager: &ManagerLoop, slot: &SlotName) -> SlotView {
    match manager.view(slot) {
        Ok(Answer::Slot(view)) => *view,
        other => panic!("{other:?}"),
    }
}

/// Goes round until a slot runs a plugin (or none) and its file has a state.
fn until(manager: &mut ManagerLoop, slot: &SlotName, plugin: Option<&str>, file: FileState) {
    let digest = plugin.map(|plugin| Digest::of(plugin.as_bytes()));
    for _ in 0..1000 {
        manager.round();
        let state = manager.slots.get(slot).map(|slot| slot.file().state);
        if manager.slots.digest(slot) == digest && state.unwrap_or_default() == file {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never {plugin:?}: {:?}", view(manager, slot));
}

fn request(
    manager: &mut ManagerLoop,
    slot: &SlotName,
    kind: RequestKind,
) -> oneshot::Receiver<RequestResult> {
    let (answer, receiver) = oneshot::channel();
    manager.answer(Request {
        slot: slot.clone(),
        kind,
        answer,
    });
    receiver
}

/// The manager of a host that went back from the plugin `two` to `one`.
fn rolled_back(place: &Place) -> ManagerLoop {
    let mut manager = place.started();
    for plugin in ["one", "two"] {
        place.write(&SLOT, plugin);
        until(&mut manager, &SLOT, Some(plugin), FileState::Runs);
    }
    let directive = Directive {
        id: 100,
        slot: SLOT,
        bad: Digest::of(b"two"),
        to: Some(Digest::of(b"one")),
        at: 100,
    };
    drop(manager.group.order(&directive).unwrap());
    until(&mut manager, &SLOT, Some("one"), FileState::RolledBack);
    manager
}

#[test]
fn a_rolled_back_file_is_not_taken_until_an_operator_puts_it() {
    let place = Place::new();
    let mut manager = rolled_back(&place);
    assert!(manager.group.directives().followed(&SLOT) == 100);
    let put = RequestKind::Put("two".into());
    let mut answer = request(&mut manager, &SLOT, put);
    until(&mut manager, &SLOT, Some("two"), FileState::Runs);
    let Ok(Ok(Answer::Slot(view))) = answer.try_recv() else {
        panic!("no answer")
    };
    assert_eq!(view.file.state, FileState::Runs);
    assert!(view.trial_until.is_some());
    assert_eq!(manager.group.directives().standing().count(), 0);
}

#[test]
fn a_host_that_starts_again_runs_the_plugin_it_went_back_to() {
    let place = Place::new();
    drop(rolled_back(&place));
    let mut manager = place.started();
    assert_eq!(manager.slots.digest(&SLOT), Some(Digest::of(b"one")));
    until(&mut manager, &SLOT, Some("one"), FileState::RolledBack);
    // Another plugin may be taken, and the undone one after it.
    for plugin in ["three", "two"] {
        place.write(&SLOT, plugin);
        until(&mut manager, &SLOT, Some(plugin), FileState::Runs);
    }
}

#[test]
fn an_operator_restores_the_file_of_the_plugin_that_runs() {
    let place = Place::new();
    let mut manager = rolled_back(&place);
    let mut answer = request(&mut manager, &SLOT, RequestKind::RestoreFile);
    assert!(matches!(answer.try_recv(), Ok(Ok(Answer::Slot(_)))));
    assert_eq!(fs::read(place.file(&SLOT)).unwrap(), b"one");
    until(&mut manager, &SLOT, Some("one"), FileState::Runs);
}

#[test]
fn a_slot_of_a_key_goes_with_its_file() {
    let place = Place::new();
    let mut manager = place.started();
    let key = SlotName::of_key(b"key");
    place.write(&SLOT, "one");
    place.write(&key, "two");
    until(&mut manager, &SLOT, Some("one"), FileState::Runs);
    until(&mut manager, &key, Some("two"), FileState::Runs);
    let mut answer = request(&mut manager, &key, RequestKind::Remove);
    assert!(matches!(answer.try_recv(), Ok(Ok(Answer::Slot(_)))));
    manager.round();
    assert!(manager.slots.get(&key).is_none());
    let missing = request(&mut manager, &key, RequestKind::Remove).try_recv();
    let name = "test/keys/key".to_owned();
    assert_eq!(missing, Ok(Err(RequestError::NoSuchSlot(name))));
}

#[test]
fn a_file_that_is_no_plugin_is_rejected() {
    let place = Place::new();
    let mut manager = place.started();
    place.write(&SLOT, "one");
    until(&mut manager, &SLOT, Some("one"), FileState::Runs);
    let put = RequestKind::Put("bad".into());
    let mut answer = request(&mut manager, &SLOT, put);
    until(&mut manager, &SLOT, Some("one"), FileState::Rejected);
    let Ok(Err(RequestError::Rejected(rejection))) = answer.try_recv() else {
        panic!("no answer")
    };
    assert_eq!(rejection.code, "plugin-invalid");
}

#[test]
fn a_confirmed_plugin_is_no_longer_on_trial() {
    let place = Place::new();
    let mut manager = place.started();
    for plugin in ["one", "two"] {
        place.write(&SLOT, plugin);
        until(&mut manager, &SLOT, Some(plugin), FileState::Runs);
    }
    assert!(view(&manager, &SLOT).trial_until.is_some());
    let mut answer = request(&mut manager, &SLOT, RequestKind::Confirm);
    assert!(matches!(answer.try_recv(), Ok(Ok(Answer::Slot(_)))));
    assert_eq!(view(&manager, &SLOT).trial_until, None);
    // No worker has reported the swap, so there is nothing to go back from.
    let plan = request(&mut manager, &SLOT, RequestKind::Plan(None)).try_recv();
    let Ok(Err(RequestError::Refused { code, .. })) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(code, "nothing-to-roll-back");
}

#[test]
fn an_operator_is_refused_before_the_topic_is_read() {
    let place = Place::new();
    let mut manager = place.manager();
    let answer = request(&mut manager, &SLOT, RequestKind::Confirm).try_recv();
    assert!(matches!(answer, Ok(Err(RequestError::Log(_)))));
}
