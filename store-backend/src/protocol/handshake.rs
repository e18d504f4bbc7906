//! The greeting: magic numbers, versions, features, and who the peer is taken for.

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use super::version::{Features, NEWEST, OLDEST, ProtocolVersion};
use crate::wire::{ErrorMessage, Message, Reader, SocketSource, StringLimit, WireError, Writer};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;

/// Most features that a peer may name; Nix has five.
const MAX_FEATURES: usize = 256;

/// Why a connection did not come about. The peer caused it.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The bytes could not be exchanged.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The other end does not speak the protocol.
    #[error("expected the magic number of a Nix {expected}, found {got:#x}")]
    Magic {
        /// `client` or `daemon`.
        expected: &'static str,
        /// What came.
        got: u64,
    },
    /// The other end is too old.
    #[error(
        "the peer speaks version {got} of the Nix daemon protocol; nix-quorum speaks {OLDEST} (Nix 2.4) to {NEWEST}: \
         use a newer Nix"
    )]
    TooOld {
        /// What it speaks.
        got: ProtocolVersion,
    },
    /// The server greeted with an error.
    #[error("the daemon refused the connection: {0}")]
    Refused(String),
}

/// Whether the server lets this peer do what only its administrators may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It may delete, add logs and change what is not protected by the policy. It can never pass the policy.
    Trusted,
    /// It may read, upload and add signatures.
    Untrusted,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The version that both speak.
    pub version: ProtocolVersion,
    /// The features that both have.
    pub features: Features,
    /// The server's name for its version; none before 1.33.
    pub daemon_version: Option<String>,
    /// Whether the server trusts the client; none before 1.35 or where it did not say.
    pub trust: Option<Trust>,
}

/// Greets a client, as a server. The last byte is sent and the session may begin when this returns.
///
/// # Errors
/// When the peer is no Nix client, or too old; the reason was sent to it in the form that it understands.
///
/// Source: Nix `BasicServerConnection::handshake` and `postHandshake`; `processConnection` in `daemon.cc`.
pub async fn greet_client<R, W>(
    reader: &mut Reader<SocketSource<R>>,
    writer: &mut Writer<W>,
    daemon_version: &str,
    trust: Trust,
) -> Result<Greeting, HandshakeError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let got = reader.u64().await?;
    if got != CLIENT_MAGIC {
        return Err(HandshakeError::Magic { expected: "client", got });
    }
    // Nix up to 2.25 waits for this answer before it says its version.
    writer.put_u64(SERVER_MAGIC);
    writer.put_u64(NEWEST.to_wire());
    writer.flush().await?;
    let client = ProtocolVersion::from_wire(reader.u64().await?);
    let version = client.min(NEWEST);
    if client.major != NEWEST.major || version < OLDEST {
        return Err(refuse(reader, writer, client).await?);
    }
    let mut features = Features::default();
    if version.minor >= 38 {
        let theirs = features_of(reader).await?;
        writer.put_strings(Features::ours().names());
        writer.flush().await?;
        features = theirs.common(&Features::ours());
    }
    obsolete(reader).await?;
    if version.minor >= 33 {
        writer.put_str(daemon_version);
    }
    if version.minor >= 35 {
        writer.put_u64(match trust {
            Trust::Trusted => 1,
            Trust::Untrusted => 2,
        });
    }
    Message::Last.write(writer);
    writer.flush().await?;
    Ok(Greeting { version, features, daemon_version: Some(daemon_version.to_owned()), trust: Some(trust) })
}

/// Greets a server, as a client.
///
/// # Errors
/// When the peer is no Nix daemon, too old, or refuses.
///
/// Source: Nix `BasicClientConnection::handshake` and `postHandshake`; `RemoteStore::initConnection`.
pub async fn greet_server<R, W>(
    reader: &mut Reader<SocketSource<R>>,
    writer: &mut Writer<W>,
) -> Result<Greeting, HandshakeError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    writer.put_u64(CLIENT_MAGIC);
    writer.flush().await?;
    let got = reader.u64().await?;
    if got != SERVER_MAGIC {
        return Err(HandshakeError::Magic { expected: "daemon", got });
    }
    let server = ProtocolVersion::from_wire(reader.u64().await?);
    if server.major != NEWEST.major || server < OLDEST {
        return Err(HandshakeError::TooOld { got: server });
    }
    writer.put_u64(NEWEST.to_wire());
    let version = server.min(NEWEST);
    let mut features = Features::default();
    if version.minor >= 38 {
        writer.put_strings(Features::ours().names());
        writer.flush().await?;
        features = features_of(reader).await?.common(&Features::ours());
    }
    writer.put_u64(0);
    writer.put_u64(0);
    writer.flush().await?;
    let mut daemon_version = None;
    if version.minor >= 33 {
        daemon_version = Some(reader.string("the daemon's version", StringLimit::Short).await?);
    }
    let mut trust = None;
    if version.minor >= 35 {
        trust = match reader.u64().await? {
            1 => Some(Trust::Trusted),
            2 => Some(Trust::Untrusted),
            _ => None,
        };
    }
    loop {
        match Message::read(reader).await? {
            Message::Last => return Ok(Greeting { version, features, daemon_version, trust }),
            Message::Error(error) => return Err(HandshakeError::Refused(error.text)),
            _ => {}
        }
    }
}

/// Tells a client that is too old why, in the words of its version: since 1.26 an error has fields, before that two.
async fn refuse<R, W>(
    reader: &mut Reader<SocketSource<R>>,
    writer: &mut Writer<W>,
    got: ProtocolVersion,
) -> Result<HandshakeError, WireError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let error = HandshakeError::TooOld { got };
    if got.minor >= 14 {
        obsolete(reader).await?;
    }
    if got.minor >= 26 {
        Message::Error(ErrorMessage::new(error.to_string())).write(writer);
    } else {
        writer.put_u64(0x6378_7470);
        writer.put_str(&error.to_string());
        writer.put_u64(1);
    }
    writer.flush().await?;
    Ok(error)
}

/// Reads the two words that have meant nothing for years: the CPU's number, where wanted, and the reserved space.
async fn obsolete<R: AsyncRead + Unpin + Send>(reader: &mut Reader<SocketSource<R>>) -> Result<(), WireError> {
    if reader.u64().await? != 0 {
        reader.u64().await?;
    }
    reader.u64().await?;
    Ok(())
}

async fn features_of<R: AsyncRead + Unpin + Send>(reader: &mut Reader<SocketSource<R>>) -> Result<Features, WireError> {
    let names = reader.strings("a feature").await?;
    if names.len() > MAX_FEATURES {
        let limit = MAX_FEATURES as u64;
        return Err(WireError::TooLong { what: "list of features", got: names.len() as u64, limit });
    }
    Ok(Features::from_names(names))
}
