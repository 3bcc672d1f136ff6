//! The end of a log that is stopped in peace: everything on the disk, and a mark that says so.

use super::{Log, LogError};

impl Log {
    /// Syncs what was written, also what [`Durability::Os`] has left to the operating system, and marks it. The log
    /// is durable to its last entry when this returns.
    ///
    /// [`Durability::Os`]: quorate_protocol::Durability::Os
    pub fn finish(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        let done = self.sync_beyond_mark();
        self.or_stop(done)?;
        self.mark = self.last;
        self.write_durable_mark()
    }

    /// Syncs every segment with entries that are not known to be durable, oldest first: marks are only as good as
    /// what lies before them.
    fn sync_beyond_mark(&self) -> Result<(), LogError> {
        if self.mark == self.last {
            return Ok(());
        }
        let files: Vec<_> = {
            let segments = self.shared.lock();
            let first = segments.below(self.mark + 1);
            segments
                .list
                .iter()
                .skip(first)
                .map(|segment| (segment.path.clone(), segment.file.clone()))
                .collect()
        };
        files.iter().try_for_each(|(path, file)| file.sync_data().map_err(LogError::io("sync", path)))
    }
}
