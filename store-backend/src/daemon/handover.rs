//! Handing over pipes: a relay that was started with pipes gives them to the gate, which then talks to the client itself.
//!
//! A NAR that is relayed is copied twice more, and each answer wakes one more process. So the relay first sends a word of
//! its own in place of a client's first, with both pipes attached; the gate answers 1 if it takes them, and 0 if it does not:
//! then the relay copies. Who the peer is, is still asked of the socket.
//!
//! The gate opens the pipes anew, so that how it waits on them is its own affair: flags on what was sent it would share with
//! the peer, who could make it wait where it must not.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

/// The relay's word: "nqrelay1", little-endian. No client of Nix begins with it.
const HANDOVER: [u8; 8] = *b"nqrelay1";

/// Bytes of an answer that may wait in a pipe for the client, so that neither waits for the other to be woken.
const ROOM: usize = 256 << 10;

/// The gate's answers, words like all others.
const TAKEN: [u8; 8] = 1_u64.to_le_bytes();
const DECLINED: [u8; 8] = 0_u64.to_le_bytes();

/// How a connection begins.
pub(super) enum Opening {
    /// With a client's own first bytes.
    Client(Vec<u8>),
    /// With pipes, on which the client is.
    Pipes(Receiver, Sender),
}

/// Whether the gate took the pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

/// Offers standard input and output to the gate, as a relay.
pub(super) fn offer(mut stream: &BlockingStream, input: &File, output: &File) -> io::Result<Taken> {
    let is_pipe = |file: &File| file.metadata().is_ok_and(|found| found.file_type().is_fifo());
    if !is_pipe(input) || !is_pipe(output) {
        return Ok(Taken::No);
    }
    let pipes = [input.as_fd(), output.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    attached.push(SendAncillaryMessage::ScmRights(&pipes));
    sendmsg(stream, &[IoSlice::new(&HANDOVER)], &mut attached, SendFlags::NOSIGNAL)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    Ok(if answer == TAKEN { Taken::Yes } else { Taken::No })
}

/// Reads how a connection begins, and answers a relay.
pub(super) async fn begin(stream: &UnixStream) -> io::Result<Opening> {
    let mut first = Vec::with_capacity(HANDOVER.len());
    let mut pipes: Vec<OwnedFd> = Vec::new();
    while first.len() < HANDOVER.len() {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive(stream, &mut first, &mut pipes)) {
            Ok(0) => return Ok(Opening::Client(first)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !HANDOVER.starts_with(&first) {
            return Ok(Opening::Client(first));
        }
    }
    match reopen(&pipes) {
        Ok((input, output)) => {
            send(stream, &TAKEN).await?;
            Ok(Opening::Pipes(input, output))
        }
        Err(error) => {
            tracing::debug!(%error, "not taking a relay's pipes");
            send(stream, &DECLINED).await?;
            Ok(Opening::Client(Vec::new()))
        }
    }
}

/// Takes what has come of the first eight bytes, and the descriptors with them.
fn receive(stream: &UnixStream, first: &mut Vec<u8>, pipes: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; HANDOVER.len()];
    let wanted = HANDOVER.len() - first.len();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes[..wanted])];
    let received = recvmsg(stream, into, &mut attached, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            pipes.extend(descriptors);
        }
    }
    first.extend_from_slice(&bytes[..received.bytes]);
    Ok(received.bytes)
}

/// Opens two pipes anew: the first for reading, the second for writing.
fn reopen(pipes: &[OwnedFd]) -> io::Result<(Receiver, Sender)> {
    let [input, output] = pipes else {
        return Err(io::Error::other(format!("expected two pipes, found {} descriptors", pipes.len())));
    };
    let open = |pipe: &OwnedFd, options: &mut OpenOptions| {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        options.custom_flags(nonblocking).open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
    };
    // Before anything is opened: to open a device can have effects of its own.
    for pipe in pipes {
        if !File::from(pipe.try_clone()?).metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("a descriptor is not a pipe"));
        }
    }
    let input = open(input, OpenOptions::new().read(true))?;
    let output = open(output, OpenOptions::new().write(true))?;
    // It works without: there is a limit to how much a user's pipes may hold.
    let _as_it_was = fcntl_setpipe_size(&output, ROOM);
    Ok((Receiver::from_file(input)?, Sender::from_file(output)?))
}

async fn send(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
