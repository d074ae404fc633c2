//! The two engines of the record log.

use crate::Cluster;

/// The engine that keeps the records of the hosts under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Embedded,
    /// Real brokers, which the tests of a process share.
    Kafka,
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::Embedded, Self::Kafka];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }

    /// The engine's brokers, if it has any.
    ///
    /// # Panics
    /// If the engine should have brokers and has none.
    #[must_use]
    pub fn cluster(self) -> Option<&'static Cluster> {
        match self {
            Self::Embedded => None,
            Self::Kafka => Some(Cluster::shared().expect("brokers")),
        }
    }
}
