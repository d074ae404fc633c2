//! The tests that a worker must pass on each engine.

use courtside_log::{embedded, kafka};

use super::{identity, rollback};

macro_rules! on_each_engine {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod embedded_engine {
            use super::*;
            $(#[test]
            fn $case() {
                $module::$case(&mut embedded::subject::EmbeddedSubject::default());
            })*
        }

        mod kafka_engine {
            use super::*;
            $(#[test]
            fn $case() {
                if let Some(brokers) = kafka::subject::brokers() {
                    $module::$case(&mut kafka::subject::KafkaSubject::new(brokers));
                }
            })*
        }
    };
}

on_each_engine!(
    identity::an_input_that_was_made_anew_is_not_skipped,
    identity::an_offset_of_another_moves_nothing,
    identity::an_offset_without_a_row_is_refused,
    identity::a_key_that_was_copied_is_no_retry,
    rollback::a_rollback_goes_on_over_restarts,
);
