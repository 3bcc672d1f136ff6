//! Loading the newest checkpoint that is whole.
//!
//! Each file is read twice: once to check all of it, then, the page cache being warm, to hand out what is in
//! it. So nothing of a damaged file ever reaches the caller.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use quorate_protocol::Index;
use thiserror::Error;

use crate::disk::{Disk, DiskFile};

use super::format::{
    self, BLOCK_HEADER_BYTES, BlockProblem, Contents, FOOTER_BYTES, Footer, HEADER_BYTES, Header, Kind,
    PAYLOAD_BYTES_MAX, VERSION,
};
use super::{
    CheckpointError, CheckpointHeader, CheckpointInfo, Item, Owner, TEMPORARY_SUFFIX, failed, list,
    parse_name, part, path, sync_failed,
};

/// The newest checkpoint that is whole.
#[derive(Debug)]
pub struct Loaded {
    /// What it is of.
    pub header: CheckpointHeader,
    /// Its size and hash.
    pub info: CheckpointInfo,
    /// Newer ones that are damaged, newest first. The caller decides whether the log reaches back far
    /// enough to go on without them, and removes them then ([`remove_skipped`]).
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that is damaged.
#[derive(Debug)]
pub struct Skipped {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: Damage,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

/// What is wrong with a checkpoint's file.
#[derive(Debug, Error)]
pub enum Damage {
    /// It cannot be read.
    #[error("unreadable: {0}")]
    Unreadable(#[from] io::Error),
    /// Too short to have a header and a footer.
    #[error("{0} bytes are too few")]
    Short(u64),
    /// Magic or checksum of the header are wrong.
    #[error("the header is damaged")]
    Header,
    /// Nothing is wrong with it: a newer version of this program wrote it.
    #[error("it has version {0} of the checkpoint format, not {VERSION}: use the program that wrote it")]
    Version(u32),
    /// Magic or checksum of the footer are wrong: mostly a file that was cut.
    #[error("the footer is damaged or missing")]
    Footer,
    /// The file's name says another index than its header.
    #[error("it is of index {0}, other than its name says")]
    Name(Index),
    /// A block breaks a rule.
    #[error("at byte {offset}: {problem}")]
    Block {
        /// Where the block begins in the file.
        offset: u64,
        /// The rule.
        problem: BlockProblem,
    },
    /// Index, term or counts of the footer are not those of the file.
    #[error("the footer is of another file")]
    Counts,
    /// Every block is right, and the whole is not.
    #[error("the hash of the whole file is wrong")]
    Hash,
}

/// Finds the newest checkpoint that is whole, and hands what is in it to `on_item`, sessions in the order of their ids
/// and then records in that of their keys; `None` if there is no checkpoint. Damaged ones are passed over, and named in [`Loaded::skipped`]. Temporary
/// files are removed.
///
/// `owner` is what the checkpoint must be of, as far as it is known. A checkpoint of another cluster, or of
/// a newer version, is an error and not passed over: whoever starts the node must act. If this returns an
/// error, what was handed out does not count.
pub fn load_newest(
    disk: &dyn Disk,
    directory: &Path,
    owner: Owner,
    mut on_item: impl FnMut(Item<'_>),
) -> Result<Option<Loaded>, CheckpointError> {
    remove_temporary_files(disk, directory)?;
    let mut skipped = Vec::new();
    for index in list(disk, directory)?.into_iter().rev() {
        let path = path(directory, index);
        let file = disk.open(&path).map_err(failed("open", &path))?;
        match Reader::open(&*file, index).and_then(Reader::check) {
            Ok((header, info)) => {
                owner.check(&path, &header, &info)?;
                let done = hand_out(&*file, index, |item| item.map(&mut on_item));
                done.map_err(|damage| CheckpointError::Changed { path, damage })?;
                part::remove_parts(disk, directory, |part| part <= index)?;
                return Ok(Some(Loaded { header, info, skipped }));
            }
            Err(Damage::Version(version)) => {
                return Err(CheckpointError::OtherVersion { path, version, supported: VERSION });
            }
            Err(why) => skipped.push(Skipped { file: path, why }),
        }
    }
    if skipped.is_empty() { Ok(None) } else { Err(CheckpointError::AllDamaged(skipped)) }
}

/// Checks the file of the checkpoint at `index` as a whole, whosever it is, and changes nothing.
pub fn verify(
    disk: &dyn Disk,
    path: &Path,
    index: Index,
) -> Result<(CheckpointHeader, CheckpointInfo), Damage> {
    Reader::open(&*disk.open_read(path)?, index)?.check()
}

/// Hands out what is in every block that is intact, in a file that need not be, and each damage that is met
/// on the way; changes nothing. Behind a block whose length is wrong nothing can be found. The rules between
/// blocks, and the hash of the whole, are not looked at: see [`verify`].
pub(crate) fn read_intact(
    disk: &dyn Disk,
    path: &Path,
    index: Index,
    mut on: impl FnMut(Result<Item<'_>, Damage>),
) {
    let opened = disk.open_read(path).map_err(Damage::from);
    let read = opened.and_then(|file| {
        hand_out(&*file, index, |item| {
            on(item);
            Ok(())
        })
    });
    if let Err(damage) = read {
        on(Err(damage));
    }
}

/// Removes the damaged checkpoints that a load passed over, so that they do not count among those kept. For
/// the caller that goes on with the older one. One that could not be read stays: another attempt may succeed.
pub fn remove_skipped(disk: &dyn Disk, directory: &Path, skipped: &[Skipped]) -> Result<(), CheckpointError> {
    for Skipped { file, .. } in skipped.iter().filter(|skipped| !matches!(skipped.why, Damage::Unreadable(_)))
    {
        disk.remove(file).map_err(failed("remove", file))?;
    }
    disk.sync_directory(directory).map_err(sync_failed(directory))
}

fn remove_temporary_files(disk: &dyn Disk, directory: &Path) -> Result<(), CheckpointError> {
    for name in disk.list(directory).map_err(failed("list", directory))? {
        if parse_name(&name, TEMPORARY_SUFFIX).is_some() {
            let path = directory.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Hands out every session and record, and what is wrong with a block; what `on` returns decides whether that ends it.
pub(super) fn hand_out(
    file: &dyn DiskFile,
    index: Index,
    mut on: impl FnMut(Result<Item<'_>, Damage>) -> Result<(), Damage>,
) -> Result<(), Damage> {
    let mut reader = Reader::open(file, index)?;
    while let Some(offset) = reader.next()? {
        match reader.block(offset) {
            Ok((Kind::Terms | Kind::Members, _)) => {}
            Ok((Kind::Sessions, payload)) => {
                format::sessions(payload).try_for_each(|session| {
                    on(session.map(|(id, session)| Item::Session(id, session)).map_err(wrong(offset)))
                })?;
            }
            Ok((Kind::Records, payload)) => {
                format::records(payload)
                    .try_for_each(|record| on(record.map(Item::Record).map_err(wrong(offset))))?;
            }
            Err(damage) => on(Err(damage))?,
        }
    }
    Ok(())
}

fn wrong(offset: u64) -> impl FnOnce(BlockProblem) -> Damage {
    move |problem| Damage::Block { offset, problem }
}

/// Goes through a file block by block.
pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    header_bytes: [u8; HEADER_BYTES],
    header: Header,
    /// Where the next block begins.
    position: u64,
    /// Where the footer begins.
    end: u64,
    /// The block that was read last.
    frame: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn open(file: &'a dyn DiskFile, index: Index) -> Result<Self, Damage> {
        let length = file.length()?;
        if length < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(Damage::Short(length));
        }
        let mut header_bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut header_bytes, 0)?;
        let header = Header::parse(&header_bytes).ok_or(Damage::Header)?;
        if header.version != VERSION {
            return Err(Damage::Version(header.version));
        }
        if header.index != index {
            return Err(Damage::Name(header.index));
        }
        let end = length - FOOTER_BYTES as u64;
        Ok(Self { file, header_bytes, header, position: HEADER_BYTES as u64, end, frame: Vec::new() })
    }

    /// Checks everything there is to check.
    pub(super) fn check(mut self) -> Result<(CheckpointHeader, CheckpointInfo), Damage> {
        let Header { index, term, cluster, .. } = self.header;
        let footer = self.footer()?;
        let mut contents = Contents::new(index, term);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header_bytes);
        while let Some(offset) = self.next()? {
            let (kind, payload) = self.block(offset)?;
            contents.take(kind, payload).map_err(|problem| Damage::Block { offset, problem })?;
            hasher.update(&self.frame);
        }
        contents.check_terms().map_err(|problem| Damage::Block { offset: self.end, problem })?;
        if (footer.index, footer.term, footer.keys, footer.blocks)
            != (index, term, contents.keys, contents.blocks)
        {
            return Err(Damage::Counts);
        }
        if *hasher.update(&footer.encode_hashed()).finalize().as_bytes() != footer.hash {
            return Err(Damage::Hash);
        }
        let bytes = self.end + FOOTER_BYTES as u64;
        Ok((
            CheckpointHeader { index, term, cluster, terms: contents.terms, members: contents.members },
            CheckpointInfo {
                index,
                term,
                sessions: contents.sessions,
                keys: contents.keys,
                bytes,
                hash: footer.hash,
            },
        ))
    }

    pub(super) fn footer(&self) -> Result<Footer, Damage> {
        let mut bytes = [0; FOOTER_BYTES];
        self.file.read_exact_at(&mut bytes, self.end)?;
        Footer::parse(&bytes).ok_or(Damage::Footer)
    }

    /// Reads the next block and returns where it begins; `None` at the footer.
    fn next(&mut self) -> Result<Option<u64>, Damage> {
        let offset = self.position;
        if offset == self.end {
            return Ok(None);
        }
        let left = (self.end - offset) as usize;
        let impossible = |length| Damage::Block { offset, problem: BlockProblem::Length(length) };
        if left < BLOCK_HEADER_BYTES {
            return Err(impossible(left));
        }
        self.frame.resize(BLOCK_HEADER_BYTES, 0);
        self.file.read_exact_at(&mut self.frame, offset)?;
        let length = format::payload_bytes(&self.frame);
        if length > PAYLOAD_BYTES_MAX || length > left - BLOCK_HEADER_BYTES {
            return Err(impossible(length));
        }
        self.frame.resize(BLOCK_HEADER_BYTES + length, 0);
        self.file.read_exact_at(&mut self.frame[BLOCK_HEADER_BYTES..], offset + BLOCK_HEADER_BYTES as u64)?;
        self.position += self.frame.len() as u64;
        Ok(Some(offset))
    }

    /// The block that was read last, which began at `offset`.
    fn block(&self, offset: u64) -> Result<(Kind, &[u8]), Damage> {
        format::parse_block(&self.frame).map_err(|problem| Damage::Block { offset, problem })
    }
}
