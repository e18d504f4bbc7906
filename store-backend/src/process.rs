//! Processes, told apart from all others that ever were: who holds something, and whether they still can.

use std::fmt;

use serde::{Deserialize, Serialize};

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
        Self { id, boot: boot(), namespace: namespace(), started: started(id).unwrap_or_default() }
    }

    /// Whether this process was one of this machine and is no more. Of others, nothing is known.
    pub(crate) fn has_ended(&self) -> bool {
        let here =
            !self.boot.is_empty() && self.boot == boot() && !self.namespace.is_empty() && self.namespace == namespace();
        here && !self.started.is_empty() && started(self.id).is_none_or(|started| started != self.started)
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// Returns when a process started; none if there is none.
///
/// Source: proc_pid_stat(5); the name in parentheses may hold anything.
fn started(id: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    // A zombie writes no more.
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18).map(str::to_owned)).flatten()
}
