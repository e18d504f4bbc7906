//! Each finding is documented, in the words of the program itself.

use std::fmt::Write as _;
use std::path::Path;

use policy::Code;

#[test]
fn the_documentation_lists_every_code() {
    let mut text = String::from(
        "# Findings\n\nWhat `verify`, refusals and logs call what they notice. The codes are stable: programs may rely on \
         them.\n\n| code | what it means, and what to do |\n|---|---|\n",
    );
    for code in Code::ALL {
        writeln!(text, "| `{}` | {} |", code.as_str(), code.explain()).expect("a String takes everything");
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&place, &text).expect("docs/findings.md can be written");
    }
    let written = std::fs::read_to_string(&place).expect("docs/findings.md is there");
    assert_eq!(written, text, "run this test with UPDATE_DOCS=1 to write docs/findings.md again");
}
