//! The harness of Quorate.
