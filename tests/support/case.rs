//! One command of a table: what the gate must make of it, and whether nix-daemon makes the same of it.

use super::client::Version;
use super::server::Transport;

/// How the gate's answer compares with that of nix-daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Like {
    /// The same exit status and the same output.
    Same,
    /// The same exit status; the words or numbers are each server's own.
    SameStatus,
    /// Another exit status or another output, and why.
    Not(&'static str),
}

/// A command with a name, and what must come of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The name in the documents. Several cases may share it, where clients or transports differ.
    pub name: &'static str,
    /// What a person would type.
    pub command: &'static str,
    /// Whether it succeeds.
    pub succeeds: bool,
    /// What is in its output or, if it fails, on a line that says why.
    pub shows: &'static str,
    /// How nix-daemon compares.
    pub like: Like,
    since: Option<&'static str>,
    before: Option<&'static str>,
    only: Option<Transport>,
}

/// A command that succeeds and shows something.
pub const fn works(name: &'static str, command: &'static str, shows: &'static str) -> Case {
    Case { name, command, succeeds: true, shows, like: Like::Same, since: None, before: None, only: None }
}

/// A command that fails and says why.
pub const fn fails(name: &'static str, command: &'static str, says: &'static str) -> Case {
    Case { name, command, succeeds: false, shows: says, like: Like::Same, since: None, before: None, only: None }
}

impl Case {
    /// Only the exit status is nix-daemon's too.
    pub const fn same_status(mut self) -> Self {
        self.like = Like::SameStatus;
        self
    }

    /// nix-daemon does otherwise, for a reason.
    pub const fn unlike(mut self, why: &'static str) -> Self {
        self.like = Like::Not(why);
        self
    }

    /// Clients before this version have no such command, or do something else.
    pub const fn since(mut self, version: &'static str) -> Self {
        self.since = Some(version);
        self
    }

    /// Clients from this version on do something else.
    pub const fn before(mut self, version: &'static str) -> Self {
        self.before = Some(version);
        self
    }

    /// It is so over one transport only.
    pub const fn over(mut self, transport: Transport) -> Self {
        self.only = Some(transport);
        self
    }

    /// Says whether the case is about such a client over such a transport.
    pub fn applies(&self, version: &Version, transport: Transport) -> bool {
        self.since.is_none_or(|since| *version >= Version::new(since))
            && self.before.is_none_or(|before| *version < Version::new(before))
            && self.goes_over(transport)
    }

    /// Says whether it is about a transport.
    pub fn goes_over(&self, transport: Transport) -> bool {
        self.only.is_none_or(|only| only == transport)
    }

    /// Says in words which clients it is about; nothing if all.
    pub fn clients(&self) -> String {
        match (self.since, self.before) {
            (None, None) => String::new(),
            (Some(since), None) => format!("since {since}: "),
            (None, Some(before)) => format!("before {before}: "),
            (Some(since), Some(before)) => format!("{since} to {before}: "),
        }
    }
}
