//! The file in which people keep passwords for hosts, as curl and so Nix read it.
//!
//! Source: curl `docs/cmdline-opts/netrc.md`, `lib/netrc.c`; Nix's setting `netrc-file`.

use std::fmt;

/// Who somebody is at a host.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, …)", self.name)
    }
}

/// The logins of a file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Netrc(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// None for every other host.
    host: Option<String>,
    login: Login,
}

impl Netrc {
    /// Reads what a file says. What is no entry says nothing, as for curl.
    pub(super) fn parse(text: &str) -> Self {
        let mut entries = Vec::new();
        let mut words = words(text).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" => entries.extend(words.next().map(|host| Entry::of(Some(host)))),
                "default" => entries.push(Entry::of(None)),
                "login" | "password" | "account" => {
                    let (Some(value), Some(entry)) = (words.next(), entries.last_mut()) else { continue };
                    match word.as_str() {
                        "login" => entry.login.name = value,
                        "password" => entry.login.password = value,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        Self(entries)
    }

    /// Returns who one is at a host.
    pub(super) fn login(&self, host: &str) -> Option<&Login> {
        let is_for = |entry: &&Entry| entry.host.as_ref().is_none_or(|named| named.eq_ignore_ascii_case(host));
        self.0.iter().find(is_for).map(|entry| &entry.login)
    }
}

impl Entry {
    fn of(host: Option<String>) -> Self {
        Self { host, login: Login { name: String::new(), password: String::new() } }
    }
}

/// Returns the words outside of comments and macros. One that holds spaces is in double quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut in_macro) = (Vec::new(), false);
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let word;
            (word, rest) = match rest.strip_prefix('"') {
                Some(quoted) => unquoted(quoted),
                None => {
                    let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    (word.to_owned(), rest)
                }
            };
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
            rest = rest.trim_start();
        }
    }
    words
}

/// Returns a word up to its closing quote, and what comes after that.
fn unquoted(text: &str) -> (String, &str) {
    let (mut word, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => word.extend(characters.next().map(|escaped| match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            })),
            other => word.push(other),
        }
    }
    (word, characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str) -> Option<(String, String)> {
        Netrc::parse(text).login(host).map(|Login { name, password }| (name.clone(), password.clone()))
    }

    fn of(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.into(), password.into()))
    }

    #[test]
    fn the_first_entry_for_a_host_counts() {
        let text = "machine a.example login ann password one\n\
                    machine b.example\n\tlogin ben\n\tpassword \"t w\\\"o\"\n\
                    # machine c.example login no password no\n\
                    macdef init\nmachine c.example login no password no\n\n\
                    machine a.example login no password no\n\
                    machine d.example password three account x\n";
        assert_eq!(login(text, "a.example"), of("ann", "one"));
        assert_eq!(login(text, "B.Example"), of("ben", "t w\"o"));
        assert_eq!(login(text, "c.example"), None);
        assert_eq!(login(text, "d.example"), of("", "three"));
        assert_eq!(login(&format!("{text}default login any password four"), "c.example"), of("any", "four"));
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in ["", "machine", "login ann", "password", "machine \"", "\"\\", "default", "macdef", "a b c"] {
            let found = login(text, "host");
            assert!(found.is_none() || found == of("", ""), "{text}");
        }
        assert!(!format!("{:?}", Netrc::parse("default login a password secret")).contains("secret"));
    }
}
