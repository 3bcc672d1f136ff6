//! What a data directory is: lock, identity and vote.
