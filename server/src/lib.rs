//! A replica of Quorate.

pub mod checkpoint;
pub mod directory;
pub mod disk;
pub mod log;
