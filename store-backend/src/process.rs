//! Processes, told apart from all others that ever were: who holds something, and whether they still can.

use std::fmt;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Where processes are to be seen.
const PROC: &str = "/proc";

/// A process, told apart from all others that ever were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Process {
    id: u32,
    /// Of which start of which machine.
    boot: String,
    /// In which process namespace.
    namespace: String,
    /// When it started, in the kernel's ticks.
    started: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

impl Process {
    /// Returns this process.
    pub(crate) fn own() -> Self {
        let id = std::process::id();
        let started = match look(PROC, id) {
            Found::Started(started) => started,
            Found::Ended | Found::Unknown => String::new(),
        };
        Self { id, boot: boot(), namespace: namespace(), started }
    }

    /// Whether this process was one of this machine and is no more. Of others, nothing is known.
    pub(crate) fn has_ended(&self) -> bool {
        let here =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        here && !self.started.is_empty()
            && match look(PROC, self.id) {
                Found::Started(started) => started != self.started,
                Found::Ended => true,
                Found::Unknown => false,
            }
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// What there is under a process's number.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A process that started then.
    Started(String),
    /// None that could still do anything.
    Ended,
    /// Nobody says: others' processes may be hidden, and files may have run out.
    Unknown,
}

/// Looks for a process. That there is none, only the kernel itself is believed.
fn look(proc: &str, id: u32) -> Found {
    match std::fs::read_to_string(format!("{proc}/{id}/stat")) {
        Ok(stat) => parse(&stat).unwrap_or(Found::Unknown),
        Err(_) if is_nobodys(id) => Found::Ended,
        Err(_) => Found::Unknown,
    }
}

/// Source: `proc_pid_stat(5)`; the name in parentheses may hold anything.
fn parse(stat: &str) -> Option<Found> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    // A zombie writes no more.
    if fields.next()? == "Z" {
        return Some(Found::Ended);
    }
    fields.nth(18).map(|started| Found::Started(started.to_owned()))
}

/// Whether no process has a number, whoever may see or signal it.
fn is_nobodys(id: u32) -> bool {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    id.is_some_and(|id| test_kill_process(id) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Found, PROC, Process, look, parse};

    /// A number that no process has any more.
    fn ended() -> u32 {
        let mut child = Command::new("true").spawn().expect("it starts");
        child.wait().expect("it ends");
        child.id()
    }

    #[test]
    fn a_process_ends_when_the_kernel_says_so() {
        let own = Process::own();
        assert!(!own.has_ended());
        assert!(Process { id: ended(), ..own.clone() }.has_ended());
        assert!(Process { started: "1".into(), ..own.clone() }.has_ended(), "another has its number");
        assert!(!Process { boot: "another".into(), id: ended(), ..own.clone() }.has_ended());
        assert!(!Process { boot: String::new(), id: ended(), ..own }.has_ended());
    }

    #[test]
    fn a_process_that_is_hidden_may_be_alive() {
        assert_eq!(look("/nowhere", std::process::id()), Found::Unknown);
        assert_eq!(look("/nowhere", u32::MAX), Found::Unknown);
        assert_eq!(look("/nowhere", ended()), Found::Ended);
        assert!(matches!(look(PROC, std::process::id()), Found::Started(_)));
    }

    #[test]
    fn a_stat_says_when_a_process_started() {
        let rest = (4..=22).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let cases = [
            (format!("7 (sh) S {rest} 23"), Some(Found::Started("22".into()))),
            (format!("7 (a) Z (b) R {rest}"), Some(Found::Started("22".into()))),
            (format!("7 (sh) Z {rest}"), Some(Found::Ended)),
            ("7 (sh) S 4".into(), None),
            (String::new(), None),
        ];
        for (stat, found) in cases {
            assert_eq!(parse(&stat), found, "{stat}");
        }
    }
}
