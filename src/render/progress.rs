//! How far something has come, on a terminal and nowhere else.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use store_backend::audit::Progress;

use super::words::{bytes, count};

/// How often the line is written anew: often enough to look alive.
const PERIOD: Duration = Duration::from_millis(200);

/// Waits for `work`, and meanwhile shows on standard error, where that is a terminal, how far it has come.
pub async fn with_progress<T>(work: impl Future<Output = T>, progress: &Progress) -> T {
    tokio::pin!(work);
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.tick().await;
    let begun = Instant::now();
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => {
                let now = progress.snapshot();
                let paths = count(now.found, "path");
                let rate = bytes((now.bytes as f64 / begun.elapsed().as_secs_f64()) as u64);
                show(&format!("\r\u{1b}[K{} of {paths} checked, {} read, {rate}/s", now.done, bytes(now.bytes)));
            }
        }
    };
    show("\r\u{1b}[K");
    done
}

fn show(line: &str) {
    let mut out = io::stderr().lock();
    // Nobody may be left to see it.
    let _unseen = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
