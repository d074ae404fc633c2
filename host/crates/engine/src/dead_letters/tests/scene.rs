//! A pipeline with a worker, on a log of its own.

use super::*;

pub(super) struct Scene {
    pub(super) log: Arc<dyn RecordLog>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) worker: Option<Worker>,
    _dir: TempDir,
}

pub(super) const PARTITIONS: u32 = 2;

impl Scene {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let mut pipeline = Pipeline::clone(&pipeline(4, 100));
        pipeline.partitions = PARTITIONS;
        pipeline.record_bytes_max = log.record_bytes_max();
        pipeline.settings.commit_interval = Duration::from_millis(2);
        let notes = TopicSpec {
            name: notes::topic(&pipeline.group),
            partitions: Some(PARTITIONS),
            cleanup: Cleanup::Compact {
                tombstone_retention: Duration::from_secs(3600),
            },
        };
        let topics = [
            deleted(&pipeline.input, PARTITIONS),
            deleted(&pipeline.dead_letter, PARTITIONS),
            deleted(&pipeline.output.topic, 1),
            notes,
        ];
        log.ensure_topics(&topics).unwrap();
        let log: Arc<dyn RecordLog> = log;
        let pipeline = Arc::new(pipeline);
        let status = Arc::new(PipelineStatus::default());
        let worker = Worker::start(&log, &pipeline, &status, 0).unwrap();
        Self {
            log,
            pipeline,
            worker: Some(worker),
            _dir: dir,
        }
    }

    pub(super) fn swap(&self, is_bad: bool) {
        let slot = SlotName::Default;
        let (done, answer) = crossbeam_channel::bounded(1);
        let active = Some(Active::new(slot.clone(), Book::new(is_bad)));
        let order = Order::Activate { slot, active, done };
        assert!(self.worker.as_ref().unwrap().orders().give(order));
        answer.recv().unwrap();
    }

    pub(super) fn append(&self, key: &str, value: &str) {
        append(&*self.log, &self.pipeline.input, key, value);
    }

    /// Waits until all is processed.
    pub(super) fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self
                .log
                .group_status(&self.pipeline.group, &self.pipeline.input);
            let committed = status.unwrap().committed;
            let bounds = self.log.bounds(&self.pipeline.input).unwrap();
            let is_done = (0..)
                .map(PartitionId)
                .zip(&bounds)
                .all(|(id, bounds)| committed.get(&id).copied().unwrap_or_default() >= bounds.end);
            if is_done {
                return;
            }
            assert!(Instant::now() < deadline, "not processed: {committed:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn letters(&self) -> Arc<DeadLetters> {
        DeadLetters::new(Arc::clone(&self.log), Arc::clone(&self.pipeline))
    }

    pub(super) fn state(&self, key: &str) -> (String, bool) {
        let checkpoints = self.log.checkpoints(&self.pipeline.group).unwrap();
        let bytes = checkpoints.get(partition(key), key.as_bytes()).unwrap();
        let envelope = Envelope::decode(&bytes.unwrap()).unwrap();
        let state = envelope.saved.map(|saved| saved.state.to_vec());
        let state = String::from_utf8(state.unwrap_or_default()).unwrap();
        (state, envelope.halted.is_some())
    }
}

pub(super) fn patience() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let is_given = worker.orders().give(Order::Stop(Instant::now()));
            assert!(worker.end(patience()) == End::Clean && is_given || std::thread::panicking());
        }
    }
}

pub(super) fn partition(key: &str) -> PartitionId {
    PartitionId(key.bytes().map(u32::from).sum::<u32>() % PARTITIONS)
}

pub(super) fn append(log: &dyn RecordLog, topic: &Topic, key: &str, value: &str) {
    let record = NewRecord {
        timestamp_ms: 1,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Vec::new(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let appended = log.append(topic, vec![(partition(key), record)]).unwrap();
    block_on(appended)
        .into_iter()
        .for_each(|one| drop(one.unwrap()));
}

/// Redrives and waits for the end.
pub(super) fn redrive(letters: &Arc<DeadLetters>, selection: Selection) -> RedriveView {
    letters.redrive(selection).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let progress = letters.progress();
        if progress.state != RedriveState::Running {
            letters.stop();
            assert_eq!(letters.end_by(patience()), End::Clean);
            return progress;
        }
        assert!(Instant::now() < deadline, "{progress:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
