//! File descriptors. Each connection takes one, and some are set aside, because
//! the record log must never be the one to find none left.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for the log, the brokers' connections, plugins, and what a
/// command opens.
const OTHERS: u64 = 2_048;

/// Raises this process's limit to what `connections_max` connections need, at
/// most to the hard limit. Returns how many connections fit, if those are
/// fewer.
pub fn make_room(connections_max: usize) -> Option<usize> {
    let wanted = u64::try_from(connections_max).unwrap_or(u64::MAX);
    let wanted = wanted.saturating_add(OTHERS);
    let limit = getrlimit(Resource::Nofile);
    let now = limit.current.filter(|now| *now < wanted)?;
    let raised = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let raise = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    let have = match setrlimit(Resource::Nofile, raise) {
        Ok(()) => raised,
        Err(_) => now,
    };
    connections_within(have, connections_max)
}

/// The number of connections that fit, if it is below `connections_max`. With
/// few descriptors, connections get half of them.
fn connections_within(descriptors: u64, connections_max: usize) -> Option<usize> {
    let room = descriptors.saturating_sub(OTHERS.min(descriptors / 2));
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
    (room < connections_max).then_some(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_its_own() {
        assert_eq!(connections_within(1_024, 16_384), Some(512));
        assert_eq!(connections_within(10_000, 16_384), Some(7_952));
        assert_eq!(connections_within(16_384 + OTHERS, 16_384), None);
        assert_eq!(connections_within(1_024, 100), None);
        assert_eq!(connections_within(0, 100), Some(1));
    }
}
