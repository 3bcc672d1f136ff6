//! How a peer's answers are counted.

use quorate_client::load::{CallError, Failed};

/// A call that did not happen.
pub(super) fn refused(reason: String) -> CallError {
    CallError { outcome: Failed::Refused, reason }
}

/// A call that may have happened.
pub(super) fn unknown(reason: String) -> CallError {
    CallError { outcome: Failed::Unknown, reason }
}

/// A call that was not answered in time: it may have happened, and may still happen.
pub(super) fn timed_out() -> CallError {
    unknown("not answered in time".to_owned())
}
