//! The two engines of the record log.

use crate::Cluster;

/// What keeps the records of the hosts under test.
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

    /// Its brokers, where it has any.
    ///
    /// # Panics
    /// Where there should be brokers and are none.
    #[must_use]
    pub fn cluster(self) -> Option<&'static Cluster> {
        match self {
            Self::Embedded => None,
            Self::Kafka => Some(Cluster::shared().expect("brokers")),
        }
    }
}
