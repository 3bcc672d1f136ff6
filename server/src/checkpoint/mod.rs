//! The state at one index in one file.
