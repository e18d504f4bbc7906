//! What `ssh-ng://…?remote-program=nix-quorum` runs: the worker protocol over standard input and output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::ServeError;
use super::handover::{Taken, offer};
use super::session::{Peer, serve_connection};
use crate::gate::Gate;

/// What became of an attempt to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// A gate answered, and the session is over.
    ToTheEnd,
    /// No gate listens there.
    NobodyListens,
}

/// Relays standard input and output to a gate's socket until either ends. The caller's credentials are what the gate sees.
///
/// # Errors
/// When the socket cannot be opened for another reason than that nobody listens, or the connection fails.
pub fn relay(socket: &Path) -> Result<Relayed, ServeError> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Relayed::NobodyListens);
        }
        Err(source) => return Err(ServeError::Listen { path: socket.display().to_string(), source }),
    };
    let (input, output) = standard()?;
    match offer(&stream, &input, &output)? {
        Taken::No => pump(stream, input, output)?,
        Taken::Yes => {
            // Nothing comes any more; the end of the connection is the end of the session.
            let _ended = (&stream).read(&mut [0; 8])?;
        }
    }
    Ok(Relayed::ToTheEnd)
}

/// Serves the worker protocol on standard input and output, in this process.
///
/// # Errors
/// As [`serve_connection`].
pub async fn serve_stdio(gate: Arc<Gate>, peer: Peer) -> Result<(), ServeError> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (input, output) = tokio::net::UnixStream::from_std(ours)?.into_split();
    let pumping =
        tokio::task::spawn_blocking(move || standard().and_then(|(input, output)| pump(theirs, input, output)));
    let served = serve_connection(gate, peer, input, output).await;
    pumping.await.map_err(io::Error::other)??;
    served
}

/// Bytes that are copied at a time.
const BLOCK: usize = 256 << 10;

/// Standard input and output. The descriptors themselves: Rust's own handles would hold back what does not end in a line.
fn standard() -> io::Result<(File, File)> {
    Ok((File::from(io::stdin().as_fd().try_clone_to_owned()?), File::from(io::stdout().as_fd().try_clone_to_owned()?)))
}

/// Copies both ways.
fn pump(stream: UnixStream, input: File, output: File) -> io::Result<()> {
    let upward = stream.try_clone()?;
    std::thread::spawn(move || {
        // What the client sends ends when it goes; that the gate went first shows on the way back.
        let _gone = copy(&input, &upward);
        let _gone = upward.shutdown(Shutdown::Write);
    });
    match copy(&stream, &output) {
        Ok(()) => Ok(()),
        // The client has what it wanted and is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
    }
}

/// Copies until the source ends. `std::io::copy` would splice, and Linux keeps a pipe locked while it waits for a socket to
/// splice from: whoever reads the pipe would wait for the answer to a question that it has not asked yet.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&block[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
