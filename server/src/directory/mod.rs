//! What a data directory is: lock, identity and vote.
#[cfg(test)]
pub(crate) mod trace_disk;
