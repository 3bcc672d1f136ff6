//! The drawings of files in ARCHITECTURE.md are those of the modules that write them.

use std::fs;
use std::path::Path;

#[test]
fn every_drawing_of_a_file_in_the_architecture_is_the_modules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for module in [
        "protocol/src/entry.rs",
        "server/src/log/mod.rs",
        "server/src/checkpoint/mod.rs",
        "server/src/directory/small_file.rs",
        "server/src/directory/identity.rs",
        "server/src/directory/vote.rs",
        "server/src/directory/boot.rs",
        "server/src/offline/manifest.rs",
    ] {
        let source = fs::read_to_string(root.join(module)).unwrap();
        let header = source.lines().map_while(|line| line.strip_prefix("//!"));
        let drawing: Vec<&str> = header
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .skip_while(|line| *line != "```text")
            .skip(1)
            .take_while(|line| *line != "```")
            .collect();
        assert!(drawing.len() > 3, "{module} has no drawing");
        assert!(page.contains(&drawing.join("\n")), "ARCHITECTURE.md draws other bytes than {module}");
    }
}
