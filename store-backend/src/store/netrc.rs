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

/// What the next word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Keyword,
    Host,
    Name,
    Password,
    /// Of no use here.
    Account,
}

impl Netrc {
    /// Reads what a file says. What it says where a keyword should be is passed over; of one that cannot be taken apart nothing is
    /// believed.
    pub(super) fn parse(text: &str) -> Self {
        let (mut entries, mut next, mut in_macro) = (Vec::<Entry>::new(), Next::Keyword, false);
        for line in text.lines() {
            if in_macro {
                in_macro = !line.trim().is_empty();
                continue;
            }
            let mut rest = line.trim_start();
            if rest.starts_with('#') {
                continue;
            }
            while !rest.is_empty() && !in_macro {
                let Some((word, behind)) = word(rest) else {
                    return Self::default();
                };
                rest = behind.trim_start();
                match (next, word.to_ascii_lowercase().as_str()) {
                    (Next::Keyword, "machine") => next = Next::Host,
                    (Next::Keyword, "login") => next = Next::Name,
                    (Next::Keyword, "password") => next = Next::Password,
                    (Next::Keyword, "account") => next = Next::Account,
                    (Next::Keyword, "default") => entries.push(Entry::of(None)),
                    (Next::Keyword, "macdef") => in_macro = true,
                    (Next::Keyword, _) => {}
                    (value, _) => {
                        next = Next::Keyword;
                        match (value, entries.last_mut()) {
                            (Next::Host, _) => entries.push(Entry::of(Some(word))),
                            (Next::Name, Some(entry)) => entry.login.name = word,
                            (Next::Password, Some(entry)) => entry.login.password = word,
                            _ => {}
                        }
                    }
                }
            }
        }
        entries.retain(|entry| !(entry.login.name.is_empty() && entry.login.password.is_empty()));
        Self(entries)
    }

    /// Returns who one is at a host, perhaps by a name that is known already.
    pub(super) fn login(&self, host: &str, name: &str) -> Option<&Login> {
        self.find(name, |named| named.is_none_or(|named| named.eq_ignore_ascii_case(host)))
    }

    /// Returns who one is at a host that the file names itself.
    pub(super) fn login_by_name(&self, host: &str) -> Option<&Login> {
        self.find("", |named| named.is_some_and(|named| named.eq_ignore_ascii_case(host)))
    }

    fn find(&self, name: &str, is_for: impl Fn(Option<&str>) -> bool) -> Option<&Login> {
        let is_it = |entry: &&Entry| is_for(entry.host.as_deref()) && (name.is_empty() || entry.login.name == name);
        self.0.iter().find(is_it).map(|entry| &entry.login)
    }
}

impl Entry {
    fn of(host: Option<String>) -> Self {
        Self { host, login: Login { name: String::new(), password: String::new() } }
    }
}

/// Returns the first word, and what comes behind it. One that holds spaces is in double quotes; none is where these do not end.
fn word(text: &str) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted),
        None => {
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            Some((word.to_owned(), rest))
        }
    }
}

/// Returns a word up to its closing quote, and what comes after that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut word, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some((word, characters.as_str())),
            '\\' => word.extend(characters.next().map(|escaped| match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            })),
            other => word.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str) -> Option<(String, String)> {
        Netrc::parse(text).login(host, "").map(|Login { name, password }| (name.clone(), password.clone()))
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
    fn no_word_is_taken_for_another_entry() {
        let text = "machine a login x password #s3cret\nmachine b login y password z\n";
        assert_eq!((login(text, "a"), login(text, "b")), (of("x", "#s3cret"), of("y", "z")));
        let text = "MACHINE a Login x PASSWORD y\nMachine b login machine password macdef\nmachine c password p";
        assert_eq!((login(text, "a"), login(text, "b")), (of("x", "y"), of("machine", "macdef")));
        assert_eq!(login(text, "c"), of("", "p"));
        // What has neither is passed over.
        assert_eq!(login("machine a machine a login x password y", "a"), of("x", "y"));
        let two = Netrc::parse("machine a login x password 1 machine a login y password 2 default login z password 3");
        let password = |found: Option<&Login>| found.map(|login| login.password.clone());
        assert_eq!(password(two.login("a", "y")).as_deref(), Some("2"));
        assert_eq!(password(two.login("other", "")).as_deref(), Some("3"));
        assert_eq!(password(two.login_by_name("other")), None);
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in ["", "machine", "login ann", "password", "machine \"", "\"\\", "default", "macdef", "a b c"] {
            assert_eq!(login(text, "host"), None, "{text}");
        }
        assert_eq!(login("machine host login a password b machine \"", "host"), None);
        assert!(!format!("{:?}", Netrc::parse("default login a password secret")).contains("secret"));
    }
}
