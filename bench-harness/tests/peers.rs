//! Other stores as targets of the load: each one that is built in and installed takes it, and leaves no
//! process, however the harness ends.

use std::path::{Path, PathBuf};

use bench_harness::peers::{PeerKind, Unavailable};
use quorate_protocol::Durability;

#[test]
fn a_peer_that_is_not_built_in_says_how_to_build_it() {
    for (kind, is_built_in) in [
        (PeerKind::Redis, cfg!(feature = "redis")),
        (PeerKind::Postgres, cfg!(feature = "postgres")),
        (PeerKind::Etcd, cfg!(feature = "etcd")),
    ] {
        let checked = kind.check(3, 2, Durability::Fsync);
        assert_eq!(is_built_in, checked != Err(Unavailable::NotBuiltIn(kind)), "{kind}");
        if let (false, Err(unavailable)) = (is_built_in, checked) {
            let advice = format!("{kind} is not built in: build with --features {kind}");
            assert_eq!(unavailable.to_string(), advice);
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in PeerKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
    let refused = "mysql".parse::<PeerKind>().unwrap_err();
    assert_eq!(refused, "\"mysql\" is no peer: write one of redis, postgres, etcd");
}
