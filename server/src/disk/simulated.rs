//! A disk in memory that keeps apart what is live and what is durable, and does to the difference what disks do.
//!
//! Every change goes into the live image at once and into a list of what is not durable yet. A sync moves what it
//! covers into the durable image. A [crash](SimDisk::crash) keeps any part of the rest: of writes any sector, of
//! changed names any one, each on its own, as no order is promised between them. The changes can be recorded and
//! [replayed](Replay) up to any point, so that every crash of one run can be tried.
//!
//! # Faults
//!
//! A [`Fault`] fails the k-th call of one kind, once or from then on. A sync that fails loses what it was for: the
//! pages are clean afterwards, as Linux has it, and a later sync that succeeds has nothing to write.
//!
//! # Omissions
//!
//! No links, no permissions, no locks between processes: there is one. A file that is removed stays for whoever has
//! it open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Stands for a file, whatever it is called.
type Inode = usize;

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A file got a name; the one that had it lost it. `from` is the name that it had.
    Name { path: PathBuf, inode: Inode, from: Option<PathBuf> },
    /// A name was removed.
    Remove { path: PathBuf },
    /// A directory was made.
    Directory { path: PathBuf },
    /// Bytes were written.
    Write { inode: Inode, offset: u64, bytes: Arc<[u8]> },
    /// A file was cut or extended.
    Length { inode: Inode, length: u64 },
    /// Everything written to a file became durable.
    Sync { inode: Inode },
    /// The names in a directory became durable.
    SyncDirectory { path: PathBuf },
}

/// Files and their names.
#[derive(Clone, Debug, Default)]
struct Image {
    files: Vec<Arc<Vec<u8>>>,
    names: BTreeMap<PathBuf, Inode>,
    directories: BTreeSet<PathBuf>,
}

impl Image {
    /// The first number that stands for no file.
    fn inodes(&self) -> Inode {
        self.names.values().map(|inode| inode + 1).max().unwrap_or(0).max(self.files.len())
    }

    fn file(&mut self, inode: Inode) -> &mut Vec<u8> {
        if self.files.len() <= inode {
            self.files.resize_with(inode + 1, Arc::default);
        }
        Arc::make_mut(&mut self.files[inode])
    }

    fn length(&self, inode: Inode) -> usize {
        self.files.get(inode).map_or(0, |file| file.len())
    }

    fn write(&mut self, inode: Inode, offset: usize, bytes: &[u8]) {
        let file = self.file(inode);
        let end = offset + bytes.len();
        file.resize(file.len().max(end), 0);
        file[offset..end].copy_from_slice(bytes);
    }

    /// Forgets what lies in directories that are not there.
    fn forget_unreachable(&mut self) {
        let all = std::mem::take(&mut self.directories);
        for directory in all {
            // Parents come first.
            if directory.parent().is_none_or(|parent| self.directories.contains(parent)) {
                self.directories.insert(directory);
            }
        }
        let directories = &self.directories;
        self.names.retain(|path, _| path.parent().is_some_and(|parent| directories.contains(parent)));
    }

    /// Makes a change that is none of durability.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Name { path, inode, from } => {
                // The old name goes only if it is still this file's: the changes may come in any order.
                if let Some(from) = from
                    && self.names.get(from) == Some(inode)
                {
                    self.names.remove(from);
                }
                self.names.insert(path.clone(), *inode);
            }
            Change::Remove { path } => drop(self.names.remove(path)),
            Change::Directory { path } => drop(self.directories.insert(path.clone())),
            Change::Write { inode, offset, bytes } => self.write(*inode, *offset as usize, bytes),
            Change::Length { inode, length } => self.file(*inode).resize(*length as usize, 0),
            Change::Sync { .. } | Change::SyncDirectory { .. } => {}
        }
    }
}

/// What is on the medium, and what has been changed since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    live: Image,
    durable: Image,
    /// In the order in which they were made.
    pending: Vec<Change>,
}

/// What a crash may do to one thing that was not durable: keep one of so many versions, the first being none.
enum Unit {
    /// A change of a name, by its place among the pending ones.
    Name(usize),
    /// A sector, by its file and number; its versions are the writes that touched it.
    Sector { inode: Inode, sector: usize, writes: Vec<usize> },
    /// A file's length.
    Length(usize),
}

impl Unit {
    fn versions(&self) -> usize {
        match self {
            Self::Name(_) | Self::Length(_) => 2,
            Self::Sector { writes, .. } => writes.len() + 1,
        }
    }
}

/// What a crash keeps of what was not durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept {
    Nothing,
    Everything,
    /// One of all combinations, by its number.
    Combination(u64),
    /// Something, by chance.
    Random(u64),
}

impl Images {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Sync { inode } => {
                let inode = *inode;
                self.settle(|pending| match pending {
                    Change::Write { inode: of, .. } | Change::Length { inode: of, .. } => *of == inode,
                    _ => false,
                });
            }
            Change::SyncDirectory { path } => {
                let directory = path.clone();
                self.settle(|pending| match pending {
                    Change::Name { path, .. } | Change::Remove { path } | Change::Directory { path } => {
                        path.parent() == Some(&*directory)
                    }
                    _ => false,
                });
            }
            _ => {
                self.live.apply(&change);
                self.pending.push(change);
            }
        }
    }

    fn settle(&mut self, is_synced: impl Fn(&Change) -> bool) {
        for change in self.pending.extract_if(.., |change| is_synced(change)) {
            self.durable.apply(&change);
        }
    }

    /// The contents of a file, as it is live.
    pub(crate) fn contents(&self, path: &Path) -> Option<&[u8]> {
        let inode = *self.live.names.get(path)?;
        Some(self.live.files.get(inode).map_or(&[], |file| file.as_slice()))
    }

    /// All names of files, live.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Path> {
        self.live.names.keys().map(PathBuf::as_path)
    }

    /// Puts other contents into a file, durably.
    pub(crate) fn replace(&mut self, path: &Path, contents: Vec<u8>) {
        for image in [&mut self.live, &mut self.durable] {
            let inode = image.names[path];
            *image.file(inode) = contents.clone();
        }
    }

    /// Removes a file, durably.
    pub(crate) fn lose(&mut self, path: &Path) {
        for image in [&mut self.live, &mut self.durable] {
            image.names.remove(path);
        }
    }

    /// Whether everything on it is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.pending.is_empty()
    }

    /// In how many combinations a crash may keep what is not durable; `None` if they are beyond counting.
    pub(crate) fn combinations(&self) -> Option<u64> {
        self.units().iter().try_fold(1u64, |product, unit| product.checked_mul(unit.versions() as u64))
    }

    /// What is left after power was lost.
    pub(crate) fn crashed(&self, kept: Kept) -> Self {
        let mut image = self.durable.clone();
        image.directories.insert("/".into());
        let (mut combination, mut random) = match kept {
            Kept::Nothing | Kept::Everything => (0, 0),
            Kept::Combination(number) => (number, 0),
            Kept::Random(seed) => (0, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        };
        for unit in self.units() {
            let versions = unit.versions() as u64;
            let version = match kept {
                Kept::Nothing => 0,
                Kept::Everything => versions - 1,
                Kept::Combination(_) => {
                    let version = combination % versions;
                    combination /= versions;
                    version
                }
                Kept::Random(_) => {
                    random = next_random(random);
                    (random >> 20) % versions
                }
            };
            if version > 0 {
                self.keep(&unit, version as usize, &mut image);
            }
        }
        image.forget_unreachable();
        Self { live: image.clone(), durable: image, pending: Vec::new() }
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        let mut sectors: BTreeMap<(Inode, usize), Vec<usize>> = BTreeMap::new();
        for (place, change) in self.pending.iter().enumerate() {
            match change {
                Change::Name { .. } | Change::Remove { .. } | Change::Directory { .. } => {
                    units.push(Unit::Name(place));
                }
                Change::Length { .. } => units.push(Unit::Length(place)),
                Change::Write { inode, offset, bytes } => {
                    let first = *offset as usize / SECTOR_BYTES;
                    let end = (*offset as usize + bytes.len()).div_ceil(SECTOR_BYTES);
                    for sector in first..end {
                        sectors.entry((*inode, sector)).or_default().push(place);
                    }
                    if *offset as usize + bytes.len() > self.durable.length(*inode) {
                        units.push(Unit::Length(place));
                    }
                }
                _ => {}
            }
        }
        // Lengths come first, as a sector that was kept beyond one would be cut off again.
        units.extend(sectors.into_iter().map(|((inode, sector), writes)| Unit::Sector {
            inode,
            sector,
            writes,
        }));
        units
    }

    fn keep(&self, unit: &Unit, version: usize, image: &mut Image) {
        match unit {
            Unit::Name(place) => image.apply(&self.pending[*place]),
            Unit::Length(place) => match &self.pending[*place] {
                Change::Write { inode, offset, bytes } => {
                    let file = image.file(*inode);
                    file.resize(file.len().max(*offset as usize + bytes.len()), 0);
                }
                change => image.apply(change),
            },
            Unit::Sector { inode, sector, writes } => {
                let (start, end) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
                for place in &writes[..version] {
                    let Change::Write { offset, bytes, .. } = &self.pending[*place] else { continue };
                    let offset = *offset as usize;
                    let (from, to) = (start.max(offset), end.min(offset + bytes.len()));
                    image.write(*inode, from, &bytes[from - offset..to - offset]);
                }
            }
        }
    }
}

/// How much of a write is done that is cut short: half, up to the end of a sector if another one follows.
fn half(offset: usize, length: usize) -> usize {
    let half = length.div_ceil(2);
    let boundary = (offset + half).next_multiple_of(SECTOR_BYTES) - offset;
    if boundary < length { boundary } else { half }
}

/// Xorshift: good enough to choose by.
pub(crate) fn next_random(mut random: u64) -> u64 {
    random ^= random << 13;
    random ^= random >> 7;
    random ^ (random << 17)
}

/// A call to the disk, by kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Call {
    Create,
    Open,
    Rename,
    Remove,
    List,
    CreateDirectory,
    SyncDirectory,
    Lock,
    Read,
    Write,
    Sync,
    Length,
    SetLength,
    Allocate,
}

impl Call {
    pub(crate) const ALL: [Self; 14] = [
        Self::Create,
        Self::Open,
        Self::Rename,
        Self::Remove,
        Self::List,
        Self::CreateDirectory,
        Self::SyncDirectory,
        Self::Lock,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Length,
        Self::SetLength,
        Self::Allocate,
    ];
}

/// What a call comes to instead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Failure {
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
    /// EROFS.
    ReadOnly,
    /// EMFILE.
    NoDescriptor,
    /// Half of the bytes are read or written.
    Short,
    /// Half of the bytes are written, then ENOSPC.
    ShortThenFull,
}

impl Failure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Broken, Self::Full, Self::ReadOnly, Self::NoDescriptor, Self::Short, Self::ShortThenFull];

    fn error(self) -> io::Error {
        match self {
            Self::Broken | Self::Short => Errno::IO.into(),
            Self::Full | Self::ShortThenFull => Errno::NOSPC.into(),
            Self::ReadOnly => Errno::ROFS.into(),
            Self::NoDescriptor => Errno::MFILE.into(),
        }
    }
}

/// Which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// The first that fails, counted from 1.
    pub(crate) number: u64,
    pub(crate) failure: Failure,
    /// All later ones fail, too.
    pub(crate) for_ever: bool,
}

#[derive(Debug, Default)]
struct State {
    images: Images,
    inodes: Inode,
    fault: Option<Fault>,
    faults_met: u64,
    calls: BTreeMap<Call, u64>,
    recorded: Option<Vec<Change>>,
    /// Calls left before power is lost.
    power: Option<u64>,
}

impl State {
    fn change(&mut self, change: Change) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(change.clone());
        }
        self.images.change(change);
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.images.live.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    inode: Inode,
}

impl SimDisk {
    /// A disk with what is on another one.
    pub(crate) fn with(images: Images) -> Self {
        let inodes = images.live.inodes().max(images.durable.inodes());
        Self(Arc::new(Mutex::new(State { images, inodes, ..State::default() })))
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What is on it.
    pub(crate) fn images(&self) -> Images {
        self.lock_state().images.clone()
    }

    /// Puts other contents into a file, as when the medium rots.
    pub(crate) fn replace(&self, path: &Path, contents: Vec<u8>) {
        self.lock_state().images.replace(path, contents);
    }

    /// Records every change from now on.
    pub(crate) fn record(&self) {
        self.lock_state().recorded = Some(Vec::new());
    }

    /// How many changes were recorded so far.
    pub(crate) fn recorded(&self) -> usize {
        self.lock_state().recorded.as_ref().map_or(0, Vec::len)
    }

    /// The changes that were recorded.
    pub(crate) fn take_recorded(&self) -> Vec<Change> {
        self.lock_state().recorded.take().unwrap_or_default()
    }

    /// Has calls fail, counted from now on.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut state = self.lock_state();
        state.fault = fault;
        state.faults_met = 0;
        state.calls.clear();
    }

    /// How many calls have failed.
    pub(crate) fn faults_met(&self) -> u64 {
        self.lock_state().faults_met
    }

    /// How many calls of a kind there were.
    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.lock_state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Cuts the power after so many further changes: every later one fails.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.lock_state().power = Some(changes);
    }

    /// Counts a call, and says how it fails, if it does.
    fn call(&self, call: Call) -> Result<(MutexGuard<'_, State>, Option<Failure>), io::Error> {
        let mut state = self.lock_state();
        let changes = !matches!(call, Call::Open | Call::List | Call::Read | Call::Length);
        if let Some(power) = &mut state.power
            && changes
        {
            *power = power.checked_sub(1).ok_or_else(|| io::Error::other("power was lost"))?;
        }
        let count = state.calls.entry(call).or_default();
        *count += 1;
        let count = *count;
        let fails = |fault: &Fault| {
            let due = if fault.for_ever { count >= fault.number } else { count == fault.number };
            // The second half of a write that was cut short finds no room.
            let second = fault.failure == Failure::ShortThenFull && count == fault.number + 1;
            fault.call == call && (due || second)
        };
        let Some(fault) = state.fault.filter(fails) else { return Ok((state, None)) };
        state.faults_met += 1;
        let is_transfer = matches!(call, Call::Read | Call::Write);
        match fault.failure {
            Failure::Short if is_transfer => Ok((state, Some(fault.failure))),
            Failure::ShortThenFull if is_transfer && count == fault.number => {
                Ok((state, Some(Failure::Short)))
            }
            Failure::Short => Ok((state, None)),
            failure => {
                if call == Call::Sync {
                    // The kernel tells of it once, and calls the pages clean.
                    return Ok((state, Some(failure)));
                }
                Err(failure.error())
            }
        }
    }

    fn file(&self, inode: Inode) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }

    fn create_file(&self, state: &mut State, path: &Path) -> Arc<dyn DiskFile> {
        let inode = state.inodes;
        state.inodes += 1;
        state.change(Change::Name { path: path.to_owned(), inode, from: None });
        self.file(inode)
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, _) = self.call(Call::Create)?;
        if state.inode(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(self.create_file(&mut state, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (state, _) = self.call(Call::Open)?;
        state.inode(path).map(|inode| self.file(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.call(Call::Rename)?;
        let inode = state.inode(from)?;
        state.change(Change::Name { path: to.to_owned(), inode, from: Some(from.to_owned()) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.call(Call::Remove)?;
        state.inode(path)?;
        state.change(Change::Remove { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let (state, _) = self.call(Call::List)?;
        let live = &state.images.live;
        if !live.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = live.names.keys().chain(&live.directories).filter(|p| p.parent() == Some(directory));
        let mut names: Vec<String> =
            inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.call(Call::CreateDirectory)?;
        for path in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            if !state.images.live.directories.contains(path) {
                state.change(Change::Directory { path: path.to_owned() });
            }
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.call(Call::SyncDirectory)?;
        state.change(Change::SyncDirectory { path: path.to_owned() });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, _) = self.call(Call::Lock)?;
        match state.inode(path) {
            Ok(inode) => Ok(self.file(inode)),
            Err(_) => Ok(self.create_file(&mut state, path)),
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, failure) = self.disk.call(Call::Read)?;
        let Some(file) = state.images.live.files.get(self.inode) else { return Ok(0) };
        let bytes = file.get(offset as usize..).unwrap_or_default();
        let mut read = bytes.len().min(buffer.len());
        if failure.is_some() {
            read = read.div_ceil(2);
        }
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, failure) = self.disk.call(Call::Write)?;
        let written = if failure.is_some() { half(offset as usize, bytes.len()) } else { bytes.len() };
        state.change(Change::Write { inode: self.inode, offset, bytes: bytes[..written].into() });
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, failure) = self.disk.call(Call::Sync)?;
        if let Some(failure) = failure {
            let inode = self.inode;
            state.images.pending.retain(|change| match change {
                Change::Write { inode: of, .. } | Change::Length { inode: of, .. } => *of != inode,
                _ => true,
            });
            return Err(failure.error());
        }
        state.change(Change::Sync { inode: self.inode });
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let (state, _) = self.disk.call(Call::Length)?;
        Ok(state.images.live.length(self.inode) as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let (mut state, _) = self.disk.call(Call::SetLength)?;
        state.change(Change::Length { inode: self.inode, length });
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let (mut state, _) = self.disk.call(Call::Allocate)?;
        let length = length.max(state.images.live.length(self.inode) as u64);
        state.change(Change::Length { inode: self.inode, length });
        Ok(())
    }
}

/// The recorded changes made again, one by one.
pub(crate) struct Replay<'a> {
    images: Images,
    changes: &'a [Change],
    next: usize,
}

impl<'a> Replay<'a> {
    /// From what was there before the recording.
    pub(crate) fn new(images: Images, changes: &'a [Change]) -> Self {
        Self { images, changes, next: 0 }
    }

    /// What was there after so many changes; never fewer than before.
    pub(crate) fn after(&mut self, changes: usize) -> &Images {
        for change in &self.changes[self.next..changes] {
            self.images.change(change.clone());
        }
        self.next = changes;
        &self.images
    }

    /// What was there when only so many bytes of the next change, a write, were done; `None` if it is none.
    pub(crate) fn torn(&self, bytes: usize) -> Option<Images> {
        let Change::Write { inode, offset, bytes: all } = self.changes.get(self.next)? else { return None };
        let mut images = self.images.clone();
        images.change(Change::Write { inode: *inode, offset: *offset, bytes: all[..bytes].into() });
        Some(images)
    }

    /// Bytes of the next change, if that is a write.
    pub(crate) fn next_write_bytes(&self) -> Option<usize> {
        match self.changes.get(self.next)? {
            Change::Write { bytes, .. } => Some(bytes.len()),
            _ => None,
        }
    }
}
