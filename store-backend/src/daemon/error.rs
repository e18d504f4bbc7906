use std::io;

use thiserror::Error;

use crate::gate::GateError;
use crate::protocol::{HandshakeError, RequestError};
use crate::wire::WireError;

/// What became of an operation that did not succeed. Which of the two it is says whether the session goes on.
#[derive(Debug, Error)]
pub enum OperationError {
    /// The client is told so, and may ask the next thing.
    #[error("{0}")]
    Reply(String),
    /// The stream is out of step: the connection is closed.
    #[error(transparent)]
    Fatal(#[from] WireError),
}

impl From<RequestError> for OperationError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Wire(error) => Self::Fatal(error),
            RequestError::Invalid(why) => Self::Reply(why),
        }
    }
}

impl From<GateError> for OperationError {
    fn from(error: GateError) -> Self {
        if let GateError::Store(_) | GateError::NarRead(_) = error {
            tracing::error!(%error, "the store did not do what it should");
        }
        Self::Reply(error.to_string())
    }
}

/// Why a server cannot serve, or a connection ended early.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be made. Whoever started the program should look at its place and rights.
    #[error("cannot listen at {path}: {source}")]
    Listen {
        /// Where.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another server answers there.
    #[error("another server answers at {0}: stop it first, or give another socket")]
    InUse(String),
    /// The greeting failed: the peer caused it.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection broke in the middle of something: the peer or the network caused it.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
