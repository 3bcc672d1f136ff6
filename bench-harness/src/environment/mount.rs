//! The file system under a path, from `/proc/self/mountinfo`.

use std::path::Path;

use super::UNKNOWN;

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// Type of the file system.
    pub file_system: String,
    /// Its device, or what it gives as one.
    pub device: String,
    /// Options of the mount, then those of the file system that the mount does not repeat.
    pub options: String,
}

impl Mount {
    /// What an absolute path is on: the mount with the longest matching path, the last one of several on
    /// the same path. Its parts are "unknown" if there is none.
    pub(super) fn of(mountinfo: &str, path: &Path) -> Self {
        mountinfo
            .lines()
            .filter_map(Self::read)
            .filter(|(point, _)| path.starts_with(point))
            .max_by_key(|(point, _)| point.len())
            .map_or_else(Self::unknown, |(_, mount)| mount)
    }

    /// Where a line's mount is, and the mount: `ID PARENT DEVICE ROOT POINT OPTIONS … - TYPE SOURCE OPTIONS`.
    fn read(line: &str) -> Option<(String, Self)> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let mut file_system = file_system.split(' ');
        let (point, own_options) = (mount.next()?, mount.next()?);
        let (kind, device) = (file_system.next()?, file_system.next()?);
        let options = joined_options(own_options, file_system.next().unwrap_or_default());
        let mount = Self { file_system: kind.to_owned(), device: unescaped(device), options };
        Some((unescaped(point), mount))
    }

    fn unknown() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self { file_system: unknown(), device: unknown(), options: unknown() }
    }
}

fn joined_options(own: &str, file_system: &str) -> String {
    let mut options: Vec<_> = own.split(',').collect();
    for option in file_system.split(',').filter(|option| !option.is_empty()) {
        if !options.contains(&option) {
            options.push(option);
        }
    }
    options.join(",")
}

/// The kernel writes blanks and backslashes in octal.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 21 0:5 / /dev rw - devtmpfs udev rw
31 30 0:25 / /dev/shm rw shared:2 master:3 - tmpfs tmpfs rw,size=24684092k
32 21 0:26 / /development rw - xfs /dev/vdb rw
33 21 0:27 / /my\\040disk ro,noatime - ext4 /dev/vdc rw
";

    #[test]
    fn the_file_system_is_that_of_the_longest_mount() {
        for (path, kind) in
            [("/dev/shm/a", "tmpfs"), ("/dev/x", "devtmpfs"), ("/home", "ext4"), ("/development", "xfs")]
        {
            assert_eq!(Mount::of(MOUNTS, Path::new(path)).file_system, kind, "{path}");
        }
    }

    #[test]
    fn a_mount_has_its_device_and_all_its_options_once() {
        let root = Mount::of(MOUNTS, Path::new("/home"));
        assert_eq!((root.device.as_str(), root.options.as_str()), ("/dev/vda", "rw,relatime,discard"));
        let shared = Mount::of(MOUNTS, Path::new("/dev/shm"));
        assert_eq!((shared.device.as_str(), shared.options.as_str()), ("tmpfs", "rw,size=24684092k"));
    }

    #[test]
    fn a_blank_in_a_mounts_path_is_part_of_it() {
        let mount = Mount::of(MOUNTS, Path::new("/my disk/data"));
        assert_eq!((mount.device.as_str(), mount.options.as_str()), ("/dev/vdc", "ro,noatime,rw"));
    }

    #[test]
    fn where_nothing_is_told_nothing_is_known() {
        assert_eq!(Mount::of("", Path::new("/")), Mount::unknown());
        assert_eq!(Mount::of("half a line -\n", Path::new("/")), Mount::unknown());
    }
}
