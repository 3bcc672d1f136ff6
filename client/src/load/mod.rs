//! Load generation: a [`Workload`] on a [`Target`], and a [`Report`] of what came of it.
//!
//! Each client is a connection of its own; all of them, and their tasks, run on the calling thread, so
//! nothing crosses threads. What a call does follows from (seed, client, sequence) alone, so that
//! [`Record::check`] can say of any stored value whether it was written, without keeping the writes.
//!
//! - **A closed loop** ([`Arrivals::Closed`]) calls again when it is answered. It calls less when the store
//!   is slow, and so hides what callers with a will of their own would have waited.
//! - **An open loop** ([`Arrivals::Open`]) decides when calls start from the seed alone. Latency counts from
//!   that intended start: a call that had to wait, because the store kept all tasks busy or because the
//!   generator was late, has waited. No arrival is left out. What the generator itself was late by is
//!   reported beside it ([`Generator`]).
//!
//! Calls that time out are counted with the time that they took.
//!
//! What is loaded is a [`Target`]: [`QuorateTarget`], or any other store of keys and values.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use quorate_client::load::{Arrivals, Control, QuorateTarget, Reads, Spacing, Workload, run};
//!
//! fn main() -> Result<(), quorate_client::load::WorkloadError> {
//!     let target = QuorateTarget {
//!         servers: vec!["127.0.0.1:7401".into()],
//!         deadline: Duration::from_secs(2),
//!         cluster: None,
//!         reads: Reads::Leader,
//!         exactly_once: true,
//!     };
//!     let arrivals = Arrivals::Open { per_second: 2000.0, spacing: Spacing::Poisson };
//!     let workload = Workload { clients: 16, in_flight: 4, arrivals, ..Workload::default() };
//!     let report = run(&workload, &target, &Control::default(), None)?;
//!     println!("p99 {} ns", report.writes.latency_ns.value_at_quantile(0.99));
//!     Ok(())
//! }
//! ```

mod arrivals;
mod content;
mod control;
mod generator;
mod keys;
mod quorate;
mod record;
mod report;
mod series;
mod tally;
mod target;
mod workload;

pub use content::VALUE_BYTES_MIN;
pub use control::{Control, Live};
pub use generator::run;
pub use keys::{InvalidPrefix, KEY_PREFIX_BYTES_MAX, Key, KeyPrefix, key, key_number};
pub use quorate::{QuorateConnection, QuorateTarget, Reads};
pub use record::{Record, Violation};
pub use report::{Calls, Generator, OTHER_REASONS, REASONS_MAX, Report, Second};
pub use target::{CallError, Connection, Failed, Target};
pub use workload::{
    Arrivals, CLIENTS_MAX, DURATION_MAX, Distribution, EXPONENT_MAX, KEYS_MAX, OPEN_CALLS_MAX,
    PER_SECOND_MAX, PER_SECOND_MIN, Spacing, Workload, WorkloadError,
};
