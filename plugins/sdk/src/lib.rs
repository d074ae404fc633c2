//! The SDK for Courtside plugins: a trait, a macro, and a harness that runs the
//! plugin's logic in a plain `cargo test`, without WebAssembly.
//!
//! A plugin is a type that holds the state of one record key (in the NBA
//! pipeline, of one game) and says how an event changes it:
//!
//! ```
//! use courtside_plugin::{Meta, Output, Processor, Refusal};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Tally { points: u32 }
//!
//! #[derive(Deserialize)]
//! struct Basket { points: u32 }
//!
//! impl Processor for Tally {
//!     const NAME: &'static str = "tally";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     type Event = Basket;
//!
//!     fn open(_key: &str) -> Self {
//!         Self { points: 0 }
//!     }
//!
//!     fn check(&self, basket: &Basket, _: &Meta) -> Result<(), Refusal> {
//!         if basket.points > 3 { Err("nobody scores that much at once".into()) } else { Ok(()) }
//!     }
//!
//!     fn apply(&mut self, basket: Basket, _: &Meta, out: &mut Output) {
//!         self.points += basket.points;
//!         out.emit(self);
//!     }
//! }
//!
//! courtside_plugin::export!(Tally);
//!
//! // In a test:
//! use courtside_plugin::test::Harness;
//! use serde_json::json;
//!
//! let mut game = Harness::<Tally>::new("LAL-BOS");
//! game.feed(json!({"points": 2})).feed(json!({"points": 4})).feed(json!({"points": 3}));
//! let run = game.run();
//! assert_eq!(run.json(), [json!({"points": 2}), json!({"points": 5})]);
//! assert_eq!(run.refusals[0].index, 1);
//! ```
//!
//! `crate-type = ["cdylib", "rlib"]` and `cargo build --target wasm32-wasip2`
//! make the file to drop into the plugin directory, and let tests use the type.
//!
//! # The promises, and what they ask of you
//!
//! - **A refused event leaves no trace.** [`Processor::check`] may refuse and
//!   cannot change the state; [`Processor::apply`] changes it and cannot
//!   refuse. So no copy of the state is ever made to roll back to.
//! - **Identical events give identical bytes**, however they are batched and
//!   whatever else the instance holds. Keep everything in the state (no statics,
//!   no thread-locals), take time and chance from [`Meta`], and use ordered maps
//!   (`BTreeMap`, or a sorted `Vec`) in state and output: a `HashMap` has another
//!   order in each instance. [`test::Harness`] checks this promise.
//! - **Numbers that JSON cannot say** (`NaN`, infinities) become `null` there,
//!   and a state that holds one does not open again: keep them out.
//! - **A panic** is a trap: the host drops the instance, goes back to the
//!   committed checkpoints, tries again, and in the end puts the event that
//!   panics alone with the dead letters.

mod codec;
pub mod native;
mod output;
mod processor;
#[cfg(not(target_family = "wasm"))]
pub mod test;
#[doc(hidden)]
pub mod wasm;

pub use codec::{Decode, Raw, State};
pub use output::{Emitted, Output};
pub use processor::{Meta, Processor, Refusal};

/// The contract as generated from `wit/`, for plugins that are written against it
/// directly.
#[allow(
    unsafe_code,
    missing_debug_implementations,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "generated, for the canonical ABI"
)]
pub mod contract {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "courtside_plugin::contract",
        additional_derives: [PartialEq, Eq],
    });
}

/// Exports a [`Processor`] as this crate's plugin. Call it once, in the crate
/// whose `.wasm` is to be the plugin. On targets other than WebAssembly the macro
/// only checks that the type is a [`Processor`].
#[macro_export]
macro_rules! export {
    ($processor:ty) => {
        const _: () = {
            #[allow(dead_code, reason = "used in WebAssembly")]
            type Exported = $crate::wasm::Exported<$processor>;
            const _: &str = <$processor as $crate::Processor>::NAME;
            #[cfg(target_family = "wasm")]
    $crate::contract::export!(Exported with_types_in $crate::contract);
        };
    };
}
