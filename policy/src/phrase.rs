//! How names and alternatives are put into a sentence, in any number.

/// Most names that one sentence lists: more than a reader compares at a glance.
const MAX_NAMES: usize = 6;

/// Lists names: `a`, `a or b`, `a, b or c`; past six, `a, b, c, d, e or 4 others`.
pub(crate) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>, conjunction: &str) -> String {
    let names: Vec<T> = names.into_iter().collect();
    let mut shown: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let others;
    if shown.len() > MAX_NAMES {
        others = format!("{} others", shown.len() + 1 - MAX_NAMES);
        shown.truncate(MAX_NAMES - 1);
        shown.push(&others);
    }
    match shown.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} {conjunction} {last}", rest.join(", ")),
    }
}

/// Joins parts of a requirement: `A or B`, and past six `A or B or … or 4 other ways`. What is nested in another list,
/// and has more than one part itself, stands in brackets.
pub(crate) fn join(parts: Vec<String>, conjunction: &str, nesting: Nesting) -> String {
    let count = parts.len();
    let separator = format!(" {conjunction} ");
    let mut shown: Vec<String> = parts.into_iter().take(MAX_NAMES).collect();
    if count > MAX_NAMES {
        shown.truncate(MAX_NAMES - 1);
        shown.push(format!("{} more", count + 1 - MAX_NAMES));
    }
    let joined = shown.join(&separator);
    if count > 1 && nesting == Nesting::Inner { format!("[{joined}]") } else { joined }
}

/// Whether a list stands by itself or within another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// By itself.
    Outer,
    /// Within another, so it needs brackets.
    Inner,
}

/// Writes a number with the noun it counts: `1 signer`, `2 signers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_any_number_of_names() {
        let names: Vec<String> = (0..9).map(|n| format!("n{n}")).collect();
        let cases = [
            (0, ""),
            (1, "n0"),
            (2, "n0 or n1"),
            (3, "n0, n1 or n2"),
            (6, "n0, n1, n2, n3, n4 or n5"),
            (9, "n0, n1, n2, n3, n4 or 4 others"),
        ];
        for (number, expected) in cases {
            assert_eq!(list(&names[..number], "or"), expected);
        }
    }

    #[test]
    fn brackets_only_what_is_nested_and_has_parts() {
        let parts = |number| (0..number).map(|n| format!("p{n}")).collect::<Vec<_>>();
        assert_eq!(join(parts(1), "or", Nesting::Inner), "p0");
        assert_eq!(join(parts(2), "or", Nesting::Inner), "[p0 or p1]");
        assert_eq!(join(parts(2), "or", Nesting::Outer), "p0 or p1");
        assert_eq!(join(parts(8), "and", Nesting::Outer), "p0 and p1 and p2 and p3 and p4 and 3 more");
    }
}
