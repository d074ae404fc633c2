//! The host as its operator sees it: starting, stopping, its disk, its
//! pipelines, and what clients send it.

mod disk;
mod input;
mod kinds;
mod logging;
mod pipelines;
mod signals;
mod start;
mod stop;

use std::process::ExitCode;

use courtside_tests::{Engine, suite::Suite, tests};
use serde_json::{Value, json};

/// The n-th free throw of a game.
fn point(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

fn main() -> ExitCode {
    let both = || {
        tests![
            input::bad_events_are_answered_with_what_is_wrong_and_leave_nothing,
            input::a_connection_cut_in_the_middle_leaves_nothing,
            input::the_answer_says_where_the_events_are,
            kinds::a_stream_of_one_key_is_processed_whole,
            kinds::a_table_that_is_to_be_a_stream_loses_nothing,
            kinds::a_stream_that_is_to_be_a_table_stays_one,
            kinds::outputs_change_while_no_host_of_the_group_runs,
            pipelines::pipelines_share_topics_and_follow_each_other,
            pipelines::a_pipeline_in_trouble_is_alone_in_it,
            pipelines::entities_that_close_and_open_again_count_as_others_do,
            start::a_data_directory_has_one_host,
            start::topics_that_are_not_as_configured_are_named,
            start::health_is_an_exit_status,
            stop::what_was_acknowledged_before_a_clean_stop_is_there_after_it,
            stop::a_retry_with_an_idempotency_key_counts_once_even_after_a_crash,
            stop::a_crash_right_after_an_acknowledgement_loses_nothing,
            stop::a_reader_of_a_stream_goes_on_where_it_was,
        ]
    };
    // Only the embedded engine has a disk, and some tests are about no engine.
    let embedded = tests![
        disk::a_disk_with_less_room_than_is_kept_free,
        disk::a_disk_without_any_room,
        disk::games_go_on_when_the_disk_has_less_room_than_is_kept_free,
        disk::games_go_on_when_the_disk_has_no_room,
        disk::a_host_starts_where_less_room_is_than_is_kept_free,
        disk::a_host_starts_where_no_room_is,
        disk::a_full_disk_does_not_keep_a_host_from_stopping,
        kinds::a_table_of_one_key_is_compacted_behind_its_readers,
        kinds::pipelines_that_disagree_on_a_topic_are_named,
        logging::a_disk_that_is_full_below_the_log_ends_no_host,
        logging::a_pipe_without_a_reader_ends_no_host,
        logging::a_pipe_that_nobody_drains_holds_no_host_up,
        logging::a_reader_that_comes_back_is_told_what_is_missing,
        signals::only_what_is_to_end_a_host_ends_it,
        signals::a_host_reads_its_files_again_when_it_is_told_to,
        start::a_start_that_hangs_ends_all_the_same,
        start::an_address_has_one_host,
        start::a_data_directory_that_cannot_be_written_is_named,
        start::a_data_directory_of_somebody_else_is_named,
        start::what_is_wrong_in_the_configuration_is_named,
        start::the_configuration_that_is_printed_can_be_read,
        start::the_environment_may_say_where_a_host_is,
    ];
    Suite::new()
        .on_both(both)
        .on(Engine::Embedded, embedded)
        .run()
}
