//! Where a binary cache is kept: a directory or a bucket, as Nix writes it.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::directories;
use crate::object::{Bucket, Directory, Location, LocationError, ObjectError, ObjectStore, Patience, Writers};

/// zstd's levels whose windows every reader takes.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// Why a text names no place. Whoever wrote it caused it.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// It is of no kind that is kept here.
    #[error("expected a store as file:///DIRECTORY or s3://BUCKET, found {0:?}")]
    Kind(String),
    /// A parameter means nothing here.
    #[error("{uri:?}: {why}")]
    Parameter {
        /// What was written.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is no bucket.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// It is no path.
    #[error("cannot find {0:?}: {1}")]
    Path(String, std::io::Error),
}

/// Where a binary cache is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    /// zstd's level for what is stored; none for its default.
    pub compression_level: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory(PathBuf),
    Bucket(Location),
}

impl Place {
    /// Parses `file:///DIRECTORY`, a plain path, or `s3://BUCKET`, with Nix's parameters.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn parse(uri: &str) -> Result<Self, PlaceError> {
        let wrong = |why: String| PlaceError::Parameter { uri: uri.to_owned(), why };
        let (place, query) = uri.split_once('?').unwrap_or((uri, ""));
        let mut compression_level = None;
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("compression", "zstd")) => {}
                Some(("compression", other)) => {
                    return Err(wrong(format!("compression={other}: NARs are kept as zstd")));
                }
                // As in Nix, -1 is the default.
                Some(("compression-level", "-1")) => {}
                Some(("compression-level", text)) => {
                    let level = text.parse().ok().filter(|level| LEVELS.contains(level));
                    let expected = || wrong(format!("compression-level={text}: expected 1 to {}", LEVELS.end()));
                    compression_level = Some(level.ok_or_else(expected)?);
                }
                _ => rest.push(parameter),
            }
        }
        let kind = if place.starts_with("s3://") {
            let query = rest.join("&");
            Kind::Bucket(Location::parse(&if query.is_empty() {
                place.to_owned()
            } else {
                format!("{place}?{query}")
            })?)
        } else {
            let path = place.strip_prefix("file://").unwrap_or(place);
            if path.contains("://") || path.is_empty() {
                return Err(PlaceError::Kind(uri.to_owned()));
            }
            if let Some(parameter) = rest.first() {
                return Err(wrong(format!("a directory store takes no {parameter:?}")));
            }
            let absolute = std::path::absolute(path);
            Kind::Directory(absolute.map_err(|error| PlaceError::Path(path.to_owned(), error))?)
        };
        Ok(Self { kind, compression_level })
    }

    /// Returns its name, which tells it apart from every other.
    #[must_use]
    pub fn identity(&self) -> String {
        match &self.kind {
            Kind::Directory(path) => format!("file://{}", path.display()),
            Kind::Bucket(Location { bucket, endpoint, .. }) => {
                format!("s3://{}/{bucket}", endpoint.as_deref().unwrap_or("AWS"))
            }
        }
    }

    /// Says which binary cache this is to whoever reads it: more than its name, as far as it can be told from here. Where credentials
    /// or a region lead is for the bucket's provider to say.
    pub(super) fn which(&self) -> String {
        match &self.kind {
            Kind::Directory(path) => format!("file://{}", directories::which(path)),
            Kind::Bucket(Location { region, profile, addressing, .. }) => {
                format!("{} (region {region:?}, profile {profile:?}, addressing {addressing:?})", self.identity())
            }
        }
    }

    /// Says whether it is reached over a network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Bucket(_))
    }

    /// Opens it to write.
    ///
    /// # Errors
    /// When it cannot be written, or not by so many.
    pub async fn open(&self, writers: Writers) -> Result<Arc<dyn ObjectStore>, ObjectError> {
        match &self.kind {
            // Here the file system keeps writers apart.
            Kind::Directory(path) => {
                let path = path.clone();
                Ok(Arc::new(tokio::task::spawn_blocking(move || Directory::open(path)).await??))
            }
            Kind::Bucket(location) => {
                Ok(Arc::new(Bucket::open(location.clone(), Patience::default(), None, writers).await?))
            }
        }
    }

    /// Opens it to read. Nothing is made or changed.
    ///
    /// # Errors
    /// When there is no such directory, or the bucket's credentials cannot be had.
    pub async fn open_existing(&self) -> Result<Arc<dyn ObjectStore>, ObjectError> {
        match &self.kind {
            Kind::Directory(path) => Ok(Arc::new(Directory::existing(path.clone())?)),
            Kind::Bucket(location) => Ok(Arc::new(Bucket::connect(location.clone(), Patience::default(), None).await?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_bucket() {
        let parse = |text: &str| Place::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parse("file:///a/b"), parse("/a/b"));
        assert_eq!(parse("file:///a?compression=zstd&compression-level=-1"), parse("/a"));
        assert_eq!(parse("file:///a?compression-level=19").compression_level, Some(19));
        let bucket = parse("s3://cache?compression-level=7&region=eu-west-1");
        assert_eq!(bucket.compression_level, Some(7));
        assert_eq!(bucket.kind, parse("s3://cache?region=eu-west-1").kind);
        let wrong = [
            ("", "expected a store as"),
            ("http://cache", "expected a store as"),
            ("unix:///s", "expected a store as"),
            ("file:///a?region=x", "takes no"),
            ("/a?compression=xz", "kept as zstd"),
            ("/a?compression-level=20", "expected 1 to 19"),
            ("s3://cache?compression-level=x", "expected 1 to 19"),
            ("s3://cache?nonsense=1", "unknown parameter"),
        ];
        for (text, says) in wrong {
            let error = Place::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
