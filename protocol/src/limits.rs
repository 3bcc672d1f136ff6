//! The bounds of every message, each with its unit. What happens at a bound is said where it is checked.

/// Replicas of a cluster.
pub const REPLICAS_MAX: u8 = 15;

/// Bytes of a key; at least 1.
pub const KEY_BYTES_MAX: usize = 4 << 10;

/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Mutations of one atomic batch.
pub const BATCH_MUTATIONS_MAX: usize = 4096;

/// Items of one page of a scan.
pub const SCAN_ITEMS_MAX: usize = 10_000;

/// Bytes of keys and values after which a page of a scan ends, with at least one item.
pub const SCAN_PAGE_BYTES_MAX: usize = 1 << 20;

/// Sequence numbers from the lowest that a session's client still waits for (R24).
pub const SESSION_WINDOW: u64 = 16 << 10;

/// Sessions that a cluster keeps. One more ends the one that has not been used for the longest time.
pub const SESSIONS_MAX: usize = 64 << 10;

/// Sessions that one entry ends.
pub const ENDED_SESSIONS_MAX: usize = 1024;

/// Watches of one connection.
pub const WATCHES_MAX: usize = 64;

/// Bytes of a frame's body before the handshake has ended.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Bytes of a frame's body from a client. Holds the largest key and value, and bounds a batch.
pub const REQUEST_BYTES_MAX: usize = 2 << 20;

/// Bytes of a frame's body to a client.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Bytes of one log entry, headers included.
pub const ENTRY_BYTES_MAX: usize = REQUEST_BYTES_MAX + 256;

/// Bytes of entries in one append, unless a single entry is larger.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Bytes of a checkpoint in one piece.
pub const CHECKPOINT_CHUNK_BYTES_MAX: usize = 256 << 10;

/// Bytes of a frame's body between replicas.
pub const PEER_BYTES_MAX: usize = 4 << 20;

/// Bytes of a cluster's name.
pub const CLUSTER_NAME_BYTES_MAX: usize = 128;

const _: () = assert!(REQUEST_BYTES_MAX > VALUE_BYTES_MAX + KEY_BYTES_MAX + 1024);
const _: () =
    assert!(RESPONSE_BYTES_MAX > SCAN_PAGE_BYTES_MAX + VALUE_BYTES_MAX + KEY_BYTES_MAX + SCAN_ITEMS_MAX * 32);
const _: () = assert!(PEER_BYTES_MAX > ENTRY_BYTES_MAX + 1024 && PEER_BYTES_MAX > APPEND_BYTES_MAX + 1024);
const _: () = assert!(PEER_BYTES_MAX > CHECKPOINT_CHUNK_BYTES_MAX + 1024);
const _: () = assert!(HELLO_BYTES_MAX > 2 * CLUSTER_NAME_BYTES_MAX + 1024);
