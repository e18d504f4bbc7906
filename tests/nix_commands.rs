//! Every command that a real Nix client has, against the gate and against nix-daemon. The tables are in tests/support.

mod support;

use support::{adding, building, copying, reading, refusing, table_of_commands, upkeep};

compare_each_table!(refusing, copying, reading, adding, building, upkeep);

/// The document that people read.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients.md");

/// What stands before and behind the table.
const MARKS: [&str; 2] = ["<!-- commands: made by tests/nix_commands.rs -->\n", "<!-- end of commands -->\n"];

/// Writes the table anew, where it is set.
const BLESS: &str = "NIX_QUORUM_BLESS";

#[test]
fn the_document_says_what_the_tests_say() {
    let document = std::fs::read_to_string(DOCUMENT).expect("docs/clients.md");
    let (before, rest) = document.split_once(MARKS[0]).expect("a mark before the table");
    let (table, after) = rest.split_once(MARKS[1]).expect("a mark behind the table");
    let expected = table_of_commands(&[
        ("What falls short", refusing()),
        ("Bringing and taking", copying()),
        ("Asking and reading", reading()),
        ("Adding content", adding()),
        ("Building", building()),
        ("Upkeep", upkeep()),
    ]) + "\n";
    if std::env::var_os(BLESS).is_some() {
        let [first, last] = MARKS;
        std::fs::write(DOCUMENT, format!("{before}{first}{expected}{last}{after}")).expect("docs/clients.md");
        return;
    }
    assert!(
        table == expected,
        "docs/clients.md is behind: set {BLESS} and run this test once. It should say:\n{expected}"
    );
}
