use std::fs;
use std::process;

use quorate_protocol::handshake::Origin;
use quorate_protocol::{Durability, Leadership, NodeId, Quorums};
use tempfile::TempDir;

use super::*;
use crate::directory::trace_disk::{self, TraceDisk};
use crate::disk::RealDisk;

const FRESH: Incarnation = Incarnation(11);

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn settings() -> DirectorySettings {
    DirectorySettings {
        cluster: "test".into(),
        node: node(2),
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Configured(node(1)),
        durability: Durability::Fsync,
    }
}

fn open(path: &Path) -> Result<DataDirectory, DirectoryError> {
    DataDirectory::open(&RealDisk, path, &settings(), FRESH, None)
}

/// The identity of a node that has met all others.
fn met(path: &Path) -> Identity {
    let mut identity = open(path).unwrap().identity;
    identity.members = vec![(node(3), Incarnation(13)), (node(1), Incarnation(10)), (node(2), FRESH)];
    identity
}

fn refused(result: Result<DataDirectory, DirectoryError>, exit_code: u8, parts: &[&str]) {
    let error = result.unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind().exit_code(), exit_code, "{message}");
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn a_new_directory_is_made_with_its_parents_and_found_again() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("a/b");
    let made = open(&path).unwrap();
    assert_eq!(made.identity.incarnation, FRESH);
    assert_eq!((made.identity.cluster_id(), made.identity.formed), (None, false));
    assert!(made.log().is_dir() && made.checkpoint().is_dir());
    let identity = made.identity.clone();
    drop(made);

    let found = DataDirectory::open(&RealDisk, &path, &settings(), Incarnation(99), None).unwrap();
    assert_eq!(found.identity, identity);
    assert_eq!(found.damaged_vote, None);
}

#[test]
fn every_new_name_is_synced() {
    let parent = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    DataDirectory::open(&disk, &parent.path().join("outer/data"), &settings(), FRESH, None).unwrap();
    // Also the directory that was there: the process that created it may have been killed before its sync.
    let [parent, above] = [parent.path(), parent.path().parent().unwrap()].map(trace_disk::name);
    let expected = [
        "sync directory outer",
        &format!("sync directory {parent}"),
        &format!("sync directory {above}"),
        "create identity.tmp",
        "write identity.tmp",
        "sync identity.tmp",
        "rename identity.tmp",
        "sync directory data",
    ];
    let operations = disk.take_operations();
    let operations: Vec<&str> =
        operations.iter().map(String::as_str).filter(|operation| !operation.starts_with("remove")).collect();
    assert_eq!(operations[..expected.len()], expected);
}

#[test]
fn with_os_durability_identity_and_vote_are_synced_all_the_same() {
    let directory = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    let settings = DirectorySettings { durability: Durability::Os, ..settings() };
    let mut made = DataDirectory::open(&disk, directory.path(), &settings, FRESH, None).unwrap();
    assert!(disk.take_operations().contains(&"sync identity.tmp".to_owned()));
    made.vote.store(crate::replica::Promise { term: 1, voted_for: None }).unwrap();
    let stored = ["write vote-a", "sync vote-a", "write vote-b", "sync vote-b"];
    assert_eq!(disk.take_operations(), stored, "R30");
}

#[test]
fn incarnations_are_random() {
    assert_ne!(random_incarnation().unwrap(), random_incarnation().unwrap());
}

#[test]
fn a_directory_in_use_is_refused_naming_who_uses_it() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path()).unwrap();
    let holder = format!("in use by pid {}, node 2:", process::id());
    refused(open(directory.path()), 3, &[&holder]);
    drop(first);
    open(directory.path()).unwrap();
}

#[test]
fn other_settings_are_refused_with_both_values() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let quorums = |m, n| Quorums::new(m, n).unwrap();
    let others = [
        (DirectorySettings { cluster: "prod".into(), ..settings() }, r#"cluster "test", not "prod""#),
        (DirectorySettings { node: node(3), ..settings() }, r#"node "2", not "3""#),
        (DirectorySettings { quorums: quorums(5, 2), ..settings() }, r#"replicas "3", not "5""#),
        (DirectorySettings { quorums: quorums(3, 3), ..settings() }, r#"quorum "2", not "3""#),
        (
            DirectorySettings { leadership: Leadership::Configured(node(2)), ..settings() },
            r#"leadership "configured leader 1", not "configured leader 2""#,
        ),
        (DirectorySettings { durability: Durability::Os, ..settings() }, r#"durability "fsync", not "os""#),
        (
            DirectorySettings { cluster: "prod".into(), node: node(1), ..settings() },
            r#"cluster "test", not "prod", node "2", not "1""#,
        ),
    ];
    for (other, difference) in others {
        let result = DataDirectory::open(&RealDisk, directory.path(), &other, FRESH, None);
        refused(result, 3, &[difference, "start with the settings that it was made with"]); // R4
    }
    open(directory.path()).unwrap();
}

#[test]
fn somebody_elses_directory_is_refused_and_left_as_it_is() {
    for foreign in ["notes.txt", "log/messages"] {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("log")).unwrap();
        fs::write(directory.path().join(foreign), b"").unwrap();
        let before = RealDisk.list(directory.path()).unwrap();
        refused(open(directory.path()), 3, &["not empty and not a Quorate data directory", foreign]);
        assert_eq!(RealDisk.list(directory.path()).unwrap(), before);
    }
}

#[test]
fn what_a_file_system_or_a_first_start_left_is_no_obstacle() {
    let directory = TempDir::new().unwrap();
    for name in ["lost+found", "log", "checkpoint"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("LOCK"), b"pid 1, node 1").unwrap();
    fs::write(directory.path().join("identity.tmp"), b"half").unwrap();
    open(directory.path()).unwrap();
    assert!(!directory.path().join("identity.tmp").exists());
}

#[test]
fn data_without_an_identity_is_refused_and_not_made_anew() {
    for file in
        ["vote-a", "vote-b", "boot", "log/00000000000000000001.log", "checkpoint/00000000000000000009.ckpt"]
    {
        let directory = TempDir::new().unwrap();
        for name in ["log", "checkpoint"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join(file), b"").unwrap();
        refused(open(directory.path()), 4, &[file, "no identity"]); // R26
        assert!(!directory.path().join("identity").exists());
    }
}

#[test]
fn members_are_kept_across_a_restart() {
    let directory = TempDir::new().unwrap();
    let mut identity = met(directory.path());
    identity.store(&RealDisk, directory.path()).unwrap();
    assert_eq!(open(directory.path()).unwrap().identity, identity);
    identity.formed = true;
    identity.store(&RealDisk, directory.path()).unwrap();
    assert_eq!(open(directory.path()).unwrap().identity, identity);
}

#[test]
#[should_panic(expected = "contradicts itself")]
fn members_without_this_node_are_not_stored() {
    let directory = TempDir::new().unwrap();
    let mut identity = met(directory.path());
    identity.incarnation = Incarnation(99);
    let _ = identity.store(&RealDisk, directory.path());
}

#[test]
fn the_cluster_id_depends_on_everything_but_the_node_and_the_order() {
    let directory = TempDir::new().unwrap();
    let identity = met(directory.path());
    let id = identity.cluster_id();
    let with = |change: fn(&mut Identity)| {
        let mut other = identity.clone();
        change(&mut other);
        other.cluster_id()
    };
    assert_eq!(with(|identity| identity.members.reverse()), id);
    assert_eq!(with(|identity| identity.formed = true), id);
    assert_eq!(with(|identity| (identity.node, identity.incarnation) = (node(1), Incarnation(10))), id);
    assert_ne!(with(|identity| identity.cluster.push('2')), id);
    assert_ne!(with(|identity| identity.quorums = Quorums::new(3, 3).unwrap()), id);
    assert_ne!(with(|identity| identity.leadership = Leadership::Configured(node(3))), id);
    assert_ne!(with(|identity| identity.durability = Durability::Os), id);
    fn origin(hash: u8) -> Option<Origin> {
        Some(Origin { index: 130, hash: [hash; 32] })
    }
    assert_ne!(with(|identity| identity.origin = origin(7)), id);
    assert_ne!(with(|identity| identity.origin = origin(8)), with(|identity| identity.origin = origin(7)));
    assert_ne!(with(|identity| identity.members[0].1 = Incarnation(14)), id);
    assert_eq!(id.unwrap().to_string(), GOLDEN_CLUSTER_ID);
}

const GOLDEN_CLUSTER_ID: &str = "447d38ef68fe3459b35583e750d17c23";

#[test]
fn every_flipped_byte_and_every_truncation_of_the_identity_is_refused() {
    let directory = TempDir::new().unwrap();
    met(directory.path()).store(&RealDisk, directory.path()).unwrap();
    let path = directory.path().join("identity");
    let whole = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    damaged.push([&whole[..], &[0]].concat());
    damaged.push(vec![0; 1 << 20]);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.push(bytes);
    }
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        refused(open(directory.path()), 4, &["identity is damaged"]);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn an_identity_of_another_version_is_refused_with_both_versions() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let path = directory.path().join("identity");
    for (version, words) in
        [(3, "newer than 2: use the newer program"), (1, "use a program that reads version 1")]
    {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = version;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        refused(open(directory.path()), 3, &[&format!("identity has version {version}"), words]);
    }
}

#[test]
fn a_backup_is_refused_with_the_way_to_use_it() {
    for name in [BACKUP, BACKUP_TEMPORARY] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(name), "").unwrap();
        fs::create_dir(directory.path().join("log")).unwrap();
        fs::write(directory.path().join("log/00000000000000000001.log"), "").unwrap();
        refused(open(directory.path()), 3, &["is a backup", "quorate-server restore"]);
        assert!(!directory.path().join("LOCK").exists());
    }
}

#[test]
fn a_failed_sync_of_the_identity_leaves_the_old_one() {
    let directory = TempDir::new().unwrap();
    let identity = met(directory.path());
    let disk = TraceDisk::default();
    disk.fail("sync identity.tmp", io::ErrorKind::Other);
    let error = identity.store(&disk, directory.path()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 1);
    assert!(open(directory.path()).unwrap().identity.members.is_empty());
}

#[test]
fn a_directory_that_was_not_restored_to_the_end_is_refused_whatever_it_has() {
    for has_identity in [false, true] {
        let directory = TempDir::new().unwrap();
        if has_identity {
            open(directory.path()).unwrap();
        }
        fs::write(directory.path().join(RESTORE_TEMPORARY), b"").unwrap();
        refused(open(directory.path()), 4, &["was not restored to the end", "restore the backup again"]);
    }
}

#[test]
fn a_restored_directory_without_its_votes_has_lost_them() {
    let directory = TempDir::new().unwrap();
    let mut identity = open(directory.path()).unwrap().identity;
    identity.origin = Some(Origin { index: 7, hash: [7; 32] });
    identity.store(&RealDisk, directory.path()).unwrap();
    open(directory.path()).unwrap();
    for vote in VOTES {
        fs::remove_file(directory.path().join(vote)).unwrap();
    }
    refused(open(directory.path()), 4, &["both copies of the vote are lost"]);
}
