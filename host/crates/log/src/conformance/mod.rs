//! Conformance tests that every engine must pass: one for each requirement, written
//! against the interface.
//!
//! An engine's tests implement [`Subject`] and call the macro
//! [`conformance`](crate::conformance::conformance), which makes a `#[test]` of each case.

use std::{sync::Arc, time::Duration};

use bytestring::ByteString;
use courtside_types::Topic;

pub use self::kit::{
    append, assigned, compacted, deleted, join, next, read_all, record, value, values, wait,
};
use super::{RecordLog, admin::Admin};

pub mod commits;
pub mod groups;
mod kit;
pub mod operator;
pub mod records;
pub mod resets;
pub mod topics;

/// An engine under test. A record may have 1 MiB, and its queue takes 1 MiB.
pub trait Subject {
    fn log(&self) -> Arc<dyn RecordLog>;

    /// The log once more, with an operator's interface.
    fn admin(&self) -> Arc<dyn Admin>;

    /// Closes the log and opens it again with what it holds.
    fn reopen(&mut self);

    /// A topic's or group's name, made unique to the case where cases share a server.
    fn name(&self, name: &str) -> ByteString {
        name.into()
    }

    /// Drops the records of a partition before an offset, as retention does
    /// where no group keeps it back.
    fn delete_before(&self, topic: &Topic, partition: u32, offset: u64);
}

/// How long a step of a test may take. A step that takes longer hangs, and is not just
/// slow.
const HANGS_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance::conformance!(topics; $subject;
            topics_are_created_once_and_compared,
            what_does_not_exist_is_named,
        );
        $crate::conformance::conformance!(records; $subject;
            records_are_read_as_appended,
            positions_are_those_read_back,
            a_read_is_bounded_but_never_empty,
            the_latest_record_of_each_key_is_read_once,
            appenders_keep_their_order,
            bounds_are_the_offsets_held,
            everything_survives_reopening,
            appends_and_commits_tick,
            too_large_a_record_is_refused,
            a_full_queue_is_busy,
            a_closed_log_is_unavailable,
        );
        $crate::conformance::conformance!(groups; $subject;
            a_group_starts_at_the_earliest_and_reads_each_record_once,
            a_group_resumes_where_it_committed,
            groups_do_not_see_each_other,
            workers_share_the_partitions,
            a_worker_without_partitions_idles,
            polls_are_bounded_and_fair,
            a_paused_partition_brings_nothing,
            a_sought_partition_goes_on_there,
            the_second_of_a_worker_fences_the_first,
            a_released_partition_brings_nothing,
            an_append_wakes_a_waiting_poll,
            a_group_tells_its_status,
        );
        $crate::conformance::conformance!(commits; $subject;
            a_commit_is_all_of_it,
            a_refused_commit_is_none_of_it,
            a_commit_keeps_the_order_of_records,
            records_of_any_time_are_taken,
            checkpoints_are_read_back,
            keys_of_the_host_stand_last,
            a_commit_may_repeat_its_offset_and_is_fenced_all_the_same,
            a_partition_of_another_cannot_be_committed,
            an_offset_out_of_range_cannot_be_committed,
        );
        $crate::conformance::conformance!(operator; $subject;
            topics_are_created_described_and_deleted,
            settings_are_altered_and_given_back,
            what_a_pipeline_needs_cannot_be_altered_away,
            partitions_grow_where_no_key_has_state,
            a_topic_that_is_read_is_not_deleted,
            a_topic_that_is_made_anew_has_another_id,
            a_commit_means_the_topics_of_its_ids,
            what_a_group_keeps_is_not_deleted,
            groups_are_listed_with_their_topics,
            a_group_reads_what_it_has_offsets_or_members_of,
        );
        $crate::conformance::conformance!(resets; $subject;
            a_reset_moves_offsets_and_checkpoints_together,
            a_reset_of_some_partitions_leaves_the_others,
            a_reset_is_refused_while_somebody_is_there,
            a_reset_planned_for_the_topic_before_moves_nothing,
            a_reset_mends_a_partition_whose_offset_is_gone,
        );
    };
    ($theme:ident; $subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$theme::$case(&mut $subject);
            }
        )*
    };
}
#[cfg(test)]
pub(crate) use conformance;
