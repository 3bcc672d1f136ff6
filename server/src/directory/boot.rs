//! Under which boot of the machine a node runs that leaves its log to the operating system's cache (R30).
//!
//! With `durability=os` a killed process loses nothing, as the machine keeps what it wrote, and a machine that stops
//! loses what it had not written back. So the file `boot` is there while such a node runs: made durable before the
//! node takes part in anything, and removed, durably, when it has stopped and its log is synced. A node that finds
//! it was not stopped: under the same boot it goes on; under another it may lack what it has acknowledged, and must
//! not take part under that identity.
//!
//! ```text
//!  0   8   magic     "QRMBOOT\n"
//!  8   4   version   u32 LE
//! 12  16   boot id   as the system says it; zeros if it says none
//! 28   4   CRC-32C   u32 LE   of the bytes before
//! ```
//!
//! Magic, version, and a checksum at the end are the same in every version. Written as `boot.tmp`, synced, renamed, and
//! the directory synced.
//!
//! Linux names each boot. On other systems there is no id: a node there that was not stopped cleanly cannot be told
//! from one whose machine has stopped, and is refused as well.

use std::io;
use std::path::Path;

use crate::disk::Disk;

use super::error::{DirectoryError, failed};
use super::{BOOT, BOOT_TEMPORARY};

const MAGIC: [u8; 8] = *b"QRMBOOT\n";
const VERSION: u32 = 1;
const FILE_BYTES: usize = 32;

/// More than any version's file has.
const FILE_BYTES_MAX: usize = 4096;

/// One boot of a machine, from its start to its end; never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootId(u128);

impl BootId {
    /// A boot id for tests and simulations. None for 0.
    pub fn new(id: u128) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// The boot of this machine; none if the system does not name it.
    pub fn of_this_machine() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
    }

    /// 32 hexadecimal digits, with hyphens between some.
    fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
        let is_whole = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        Self::new(u128::from_str_radix(&digits, 16).ok().filter(|_| is_whole)?)
    }
}

/// Refuses a directory whose node did not stop before its machine did, now that `boot` is the machine's (R30).
pub(crate) fn check(disk: &dyn Disk, directory: &Path, boot: Option<BootId>) -> Result<(), DirectoryError> {
    let Some(found) = read(disk, directory)? else { return Ok(()) };
    let why = match (found, boot) {
        (Some(then), Some(now)) if then == now => return Ok(()),
        (Some(_), Some(_)) => "the machine has restarted since",
        _ => "the system does not say whether the machine has restarted since",
    };
    Err(DirectoryError::CacheLost { path: directory.to_owned(), why })
}

/// Notes durably that a node runs under `boot`. Until [`end_run`], a start under another one is refused.
pub fn begin_run(disk: &dyn Disk, directory: &Path, boot: Option<BootId>) -> Result<(), DirectoryError> {
    let temporary = directory.join(BOOT_TEMPORARY);
    remove(disk, &temporary)?;
    let file = disk.create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all_at(&encode(boot), 0).map_err(failed("write", &temporary))?;
    file.sync_data().map_err(failed("sync", &temporary))?;
    disk.rename(&temporary, &directory.join(BOOT)).map_err(failed("rename", &temporary))?;
    disk.sync_directory(directory).map_err(failed("sync", directory))
}

/// Notes durably that the node has stopped and everything it wrote is synced.
pub fn end_run(disk: &dyn Disk, directory: &Path) -> Result<(), DirectoryError> {
    remove(disk, &directory.join(BOOT))?;
    disk.sync_directory(directory).map_err(failed("sync", directory))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DirectoryError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What a node that was not stopped has noted, if there is one.
fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Option<BootId>>, DirectoryError> {
    let path = directory.join(BOOT);
    let damaged = |why| DirectoryError::Damaged { path: path.clone(), why };
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    if file.length().map_err(failed("read", &path))? > FILE_BYTES_MAX as u64 {
        return Err(damaged("its length is impossible"));
    }
    let bytes = file.read_all(FILE_BYTES_MAX).map_err(failed("read", &path))?;
    let (version, payload) = check_bytes(&bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(DirectoryError::NewerVersion { path, version, supported: VERSION });
    }
    let id = payload.try_into().map_err(|_| damaged("its length is not what was written"))?;
    Ok(Some(BootId::new(u128::from_be_bytes(id))))
}

fn encode(boot: Option<BootId>) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..28].copy_from_slice(&boot.map_or(0, |boot| boot.0).to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The version, and what stands between it and the checksum.
fn check_bytes(bytes: &[u8]) -> Result<(u32, &[u8]), &'static str> {
    let parts = bytes.split_last_chunk::<4>().and_then(|(before, checksum)| {
        let (magic, rest) = before.split_first_chunk::<8>()?;
        let (version, payload) = rest.split_first_chunk::<4>()?;
        Some((before, checksum, magic, version, payload))
    });
    let Some((before, checksum, magic, version, payload)) = parts else {
        return Err("its length is impossible");
    };
    if *magic != MAGIC {
        return Err("it does not begin as a note of a boot");
    }
    if crc32c::crc32c(before) != u32::from_le_bytes(*checksum) {
        return Err("its checksum is wrong");
    }
    Ok((u32::from_le_bytes(*version), payload))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::directory::trace_disk::{self, TraceDisk};
    use crate::disk::RealDisk;

    fn boot(id: u128) -> Option<BootId> {
        BootId::new(id)
    }

    fn running_under(boot: Option<BootId>) -> TempDir {
        let directory = TempDir::new().unwrap();
        begin_run(&RealDisk, directory.path(), boot).unwrap();
        directory
    }

    fn refused(directory: &TempDir, boot: Option<BootId>, exit_code: u8, word: &str) {
        let error = check(&RealDisk, directory.path(), boot).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind().exit_code(), exit_code, "{message}");
        assert!(message.contains(word) && !message.contains('\n'), "{message}");
    }

    #[test]
    fn a_killed_node_goes_on_under_the_same_boot_and_is_refused_under_another() {
        let directory = running_under(boot(7));
        check(&RealDisk, directory.path(), boot(7)).unwrap();
        refused(&directory, boot(8), 4, "the machine has restarted since"); // R30
        begin_run(&RealDisk, directory.path(), boot(8)).unwrap();
        check(&RealDisk, directory.path(), boot(8)).unwrap();
    }

    #[test]
    fn a_node_that_was_stopped_is_not_refused_under_any_boot() {
        let directory = running_under(boot(7));
        end_run(&RealDisk, directory.path()).unwrap();
        end_run(&RealDisk, directory.path()).unwrap();
        for now in [boot(7), boot(8), None] {
            check(&RealDisk, directory.path(), now).unwrap();
        }
    }

    #[test]
    fn where_the_boot_has_no_name_a_node_that_was_not_stopped_is_refused() {
        for (then, now) in [(None, None), (None, boot(7)), (boot(7), None)] {
            refused(&running_under(then), now, 4, "does not say whether the machine has restarted");
        }
    }

    #[test]
    fn the_note_is_durable_when_it_is_made_and_when_it_is_gone() {
        let directory = TempDir::new().unwrap();
        let disk = TraceDisk::default();
        let name = trace_disk::name(directory.path());
        begin_run(&disk, directory.path(), boot(7)).unwrap();
        let sync_directory = format!("sync directory {name}");
        let made =
            ["remove boot.tmp", "create boot.tmp", "write boot.tmp", "sync boot.tmp", "rename boot.tmp"];
        assert_eq!(disk.take_operations(), [&made[..], &[&sync_directory]].concat());
        end_run(&disk, directory.path()).unwrap();
        assert_eq!(disk.take_operations(), ["remove boot", &sync_directory]);
    }

    #[test]
    fn the_bytes_are_as_they_are_drawn() {
        let directory = running_under(boot(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        let bytes = fs::read(directory.path().join("boot")).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "51524d424f4f540a0100000000112233445566778899aabbccddeeff4c59362f";

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let directory = running_under(boot(7));
        let path = directory.path().join("boot");
        let whole = fs::read(&path).unwrap();
        let flipped = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let longer = [[&whole[..], &[0]].concat(), vec![0; 1 << 20]];
        for bytes in flipped.chain(cut).chain(longer) {
            fs::write(&path, bytes).unwrap();
            refused(&directory, boot(7), 4, "boot is damaged");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let directory = running_under(boot(7));
        let mut bytes = [&encode(boot(7))[..28], &[0; 12]].concat();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        fs::write(directory.path().join("boot"), bytes).unwrap();
        refused(&directory, boot(7), 3, "boot has version 2");
    }

    #[test]
    fn a_boot_id_is_read_as_the_system_says_it() {
        let id = boot(0x0f8f_ad5b_d9cb_469f_a165_7086_7728_950e);
        assert_eq!(BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e\n"), id);
        for text in
            ["", "0f8fad5b", "0f8fad5b-d9cb-469f-a165-70867728950x", "+f8fad5b-d9cb-469f-a165-70867728950e"]
        {
            assert_eq!(BootId::parse(text), None, "{text}");
        }
        assert_eq!(BootId::parse("00000000-0000-0000-0000-000000000000"), None);
        if Path::new("/proc/sys/kernel/random/boot_id").exists() {
            assert!(BootId::of_this_machine().is_some());
        }
    }
}
