//! A record that the brokers have taken, though their answer did not come.

use std::{
    borrow::Cow,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_types::{NewRecord, PartitionId, Topic, TopicPartition};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::{Kafka, cluster, config, limits, prefix};
use crate::{
    LogError, RecordLog as _,
    conformance::{deleted, read_all, record},
    kafka::{
        KafkaConfig,
        transactions::{Contents, Transactions},
    },
};

const HANGS_AFTER: Duration = Duration::from_secs(60);
/// The number of a request that brings records.
const PRODUCE: i16 = 0;

/// Passes frames on between clients and a broker. An armed wire swallows the answer to
/// the next request with records: its connection ends, and none begins while the wire
/// is cut.
struct Wire {
    target: String,
    is_armed: AtomicBool,
    is_cut: AtomicBool,
    /// Connection and number of the request whose answer is swallowed.
    swallowed: Mutex<Option<(u16, i32)>>,
}

impl Wire {
    fn start(listen: &str, target: &str) -> Arc<Self> {
        let wire = Arc::new(Self {
            target: target.to_owned(),
            is_armed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            swallowed: Mutex::default(),
        });
        let listener = TcpListener::bind(listen).unwrap();
        let accepting = Arc::clone(&wire);
        // The thread ends with the process, as the brokers do.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.is_cut.load(Ordering::SeqCst) {
                    accepting.pass_on(client);
                }
            }
        });
        wire
    }

    fn pass_on(self: &Arc<Self>, client: TcpStream) {
        let id = client.peer_addr().unwrap().port();
        let broker = TcpStream::connect(&self.target).unwrap();
        let ways = [
            (client.try_clone().unwrap(), broker.try_clone().unwrap()),
            (broker, client),
        ];
        for (is_answer, (from, to)) in [false, true].into_iter().zip(ways) {
            let wire = Arc::clone(self);
            std::thread::spawn(move || {
                wire.pass_on_frames(id, is_answer, &from, &to);
                // The opposite direction ends with this one.
                from.shutdown(Shutdown::Both).ok();
                to.shutdown(Shutdown::Both).ok();
            });
        }
    }

    /// Passes frames on until a side ends, or an answer is to be swallowed.
    fn pass_on_frames(&self, id: u16, is_answer: bool, mut from: &TcpStream, mut to: &TcpStream) {
        let mut size = [0; 4];
        while from.read_exact(&mut size).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(size) as usize];
            if from.read_exact(&mut frame).is_err() {
                return;
            }
            let number = |at: usize| i32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            if is_answer {
                if *self.swallowed.lock().unwrap() == Some((id, number(0))) {
                    self.is_cut.store(true, Ordering::SeqCst);
                    return;
                }
            } else {
                let kind = i16::from_be_bytes([frame[0], frame[1]]);
                if kind == PRODUCE && self.is_armed.swap(false, Ordering::SeqCst) {
                    *self.swallowed.lock().unwrap() = Some((id, number(4)));
                }
            }
            if to
                .write_all(&size)
                .and_then(|()| to.write_all(&frame))
                .is_err()
            {
                return;
            }
        }
    }

    fn is_cut_by_now(&self) {
        let since = Instant::now();
        while !self.is_cut.load(Ordering::SeqCst) {
            assert!(
                since.elapsed() < HANGS_AFTER,
                "no request with records came"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The client would give the next records the numbers of the uncertain ones, and the
/// brokers would drop them.
#[test]
fn a_producer_whose_records_may_be_there_is_not_used_again() {
    if cluster::why_not().is_some() {
        return;
    }
    let dir = cluster::dir("doubt");
    let _ = cluster::up(&dir, 1, &["--detours"]);
    let detours = cluster::run(&dir, &["detours"]);
    let (listen, target) = detours.split_once(' ').unwrap();
    let wire = Wire::start(listen, target);
    let config = KafkaConfig {
        static_membership: false,
        ..config(listen)
    };
    let log = Kafka::beside(config.clone(), &limits()).unwrap();
    let topic = Topic::from(format!("{}out", prefix()));
    log.ensure_topics(&[deleted(&topic, 1)]).unwrap();

    let identity: BaseConsumer = config.client().set("group.id", "g").create().unwrap();
    let identity = Arc::new(identity.group_metadata().unwrap());
    let place = TopicPartition {
        topic: topic.clone(),
        partition: PartitionId(0),
    };
    let mut transactions = Transactions::new(&config, format!("{}id", prefix()), 1 << 20);
    let mut commit = |value: &str, allows: &dyn Fn() -> Result<(), LogError>| {
        let new: NewRecord = record("k", value);
        let contents = Contents {
            records: vec![(&place, Cow::Borrowed(&new))],
            offsets: TopicPartitionList::new(),
        };
        let outcome = transactions.commit(&contents, &identity, HANGS_AFTER, &|_| allows());
        (outcome.is_ok(), transactions.has_producer())
    };
    assert_eq!(commit("a", &|| Ok(())), (true, true));
    wire.is_armed.store(true, Ordering::SeqCst);
    let refuse = || {
        wire.is_cut_by_now();
        Err(LogError::Unavailable {
            reason: "told to".to_owned(),
        })
    };
    assert_eq!(commit("b", &refuse), (false, false));
    wire.is_cut.store(false, Ordering::SeqCst);
    assert_eq!(commit("b", &|| Ok(())), (true, true));
    let read = read_all(&*log, &topic, 0, 0);
    let values: Vec<_> = read
        .iter()
        .flat_map(|record| record.value.as_deref())
        .collect();
    assert_eq!(values, [b"a", b"b"]);
    log.close();
    let _ = cluster::run(&dir, &["down"]);
}
