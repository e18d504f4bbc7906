//! The table of commands in docs/clients.md, made from the cases that the tests run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::case::{Case, Like};
use super::server::Transport;

/// Returns the table, a row for each name. Where a later group begins with a command of an earlier one, to set its stage, that
/// is not said again.
pub fn table_of_commands(groups: &[(&str, Vec<Case>)]) -> String {
    let mut text = String::new();
    let mut listed = BTreeSet::new();
    for (heading, cases) in groups {
        let mut names: Vec<&str> = Vec::new();
        let mut rows: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in cases.iter().filter(|case| !listed.contains(case.name)) {
            if !rows.contains_key(case.name) {
                names.push(case.name);
            }
            rows.entry(case.name).or_default().push(case);
        }
        let _ = writeln!(text, "\n### {heading}\n");
        text += "| name | command | over `unix://` | over `ssh-ng://` | like nix-daemon? |\n|---|---|---|---|---|\n";
        for name in names {
            listed.insert(name);
            let cases = &rows[name];
            let (unix, ssh_ng) = (answers(cases, Transport::Unix), answers(cases, Transport::SshNg));
            let ssh_ng = if ssh_ng == unix { "the same".to_owned() } else { ssh_ng };
            let _ =
                writeln!(text, "| {name} | `{}` | {unix} | {ssh_ng} | {} |", cell(cases[0].command), likeness(cases));
        }
    }
    text
}

fn answers(cases: &[&Case], transport: Transport) -> String {
    let mut answers = Vec::new();
    for case in cases.iter().filter(|case| case.goes_over(transport)) {
        let answer = match (case.succeeds, case.shows) {
            (true, _) => "works".to_owned(),
            (false, "") => "fails".to_owned(),
            (false, shows) => format!("fails: “{}”", cell(shows)),
        };
        let answer = format!("{}{answer}", case.clients());
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    if answers.is_empty() { "–".to_owned() } else { answers.join("; ") }
}

fn likeness(cases: &[&Case]) -> String {
    let mut words = Vec::new();
    for case in cases {
        let word = match case.like {
            Like::Same => "yes".to_owned(),
            Like::SameStatus => "yes, in words and numbers of its own".to_owned(),
            Like::Not(why) => format!("no: {}", cell(why)),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.len() > 1 {
        words.retain(|word| word != "yes");
    }
    words.join("; ")
}

/// Puts a text on one line that a table takes.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
