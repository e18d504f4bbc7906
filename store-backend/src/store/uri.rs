//! The stores that Nix can name, as far as they can be read: the URIs are Nix's own, with its parameters in its meanings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustix::fs::Access;
use thiserror::Error;
use verifier::StoreDir;

use super::binary_cache::CACHE_INFO;
use super::directories;
use super::local::{Local, LocalStore};
use super::place::{Place, PlaceError};
use super::remote::{Remote, Ssh};
use super::web::{Web, WebError, without_password};
use super::web_cache::WebCache;
use super::{BinaryCache, Daemon, Store, StoreError};

/// Names the store that Nix uses unless told otherwise.
const REMOTE: &str = "NIX_REMOTE";

/// Parameters that every store takes, and that change nothing in how it is read.
///
/// Source: Nix `StoreConfig`.
const COMMON: [&str; 5] = ["path-info-cache-size", "priority", "system-features", "trusted", "want-mass-query"];

/// Those that say how a binary cache is written, or what is kept of it elsewhere.
///
/// Source: Nix `BinaryCacheStoreConfig`.
const CACHE: [&str; 8] = [
    "compression",
    "compression-level",
    "index-debug-info",
    "local-nar-cache",
    "parallel-compression",
    "secret-key",
    "secret-keys",
    "write-nar-listing",
];

/// Those that say how a cache behind HTTP is written, or how often something is tried.
///
/// Source: Nix `HttpBinaryCacheStoreConfig`.
const WEB: [&str; 7] = [
    "log-compression",
    "ls-compression",
    "narinfo-compression",
    "retry-attempts",
    "retry-delay",
    "retry-delay-rate-limited",
    "retry-max-delay",
];

/// Those that say how a bucket is written, or in which pieces it is read.
///
/// Source: Nix `S3BinaryCacheStoreConfig`, and `buffer-size` in older versions.
const BUCKET: [&str; 5] =
    ["buffer-size", "multipart-chunk-size", "multipart-threshold", "multipart-upload", "storage-class"];

/// The one that names the store directory.
const STORE_DIR: &str = "store";

/// Why a text names no store. Whoever wrote it caused it.
#[derive(Debug, Error)]
pub enum StoreUriError {
    /// It is of no kind that is known.
    #[error(
        "expected a store as daemon, unix://SOCKET, local, a store's root such as / or /mnt, file:///DIRECTORY, https://HOST, \
         s3://BUCKET or ssh-ng://HOST; found {0:?}"
    )]
    Kind(String),
    /// A part of it means nothing.
    #[error("{uri:?}: {why}")]
    Part {
        /// What was written.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is no directory or bucket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It is no address.
    #[error(transparent)]
    Web(#[from] WebError),
}

/// A store that can be read, as it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUri {
    kind: Kind,
    /// The store directory that the URI states.
    store_dir: Option<StoreDir>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Cache(Place),
    Web(Web),
    /// And where its files are on this machine, if they are here; and how many connections there may be, where that is said.
    Daemon(Remote, Option<Local>, Option<usize>),
    Local(Local),
}

impl StoreUri {
    /// Returns the store that is meant where none is named: the one that `NIX_REMOTE` names, or else `auto`. That is the machine's
    /// own, read by oneself where one may write it, and asked for of its daemon otherwise. Any other URI means itself.
    ///
    /// Source: Nix `resolveStoreConfig`.
    #[must_use]
    pub fn meant(uri: &str) -> String {
        let (place, query) = uri.split_once('?').unwrap_or((uri, ""));
        let meant = match (place, std::env::var(REMOTE)) {
            ("", Ok(named)) if uri.is_empty() && !named.is_empty() => return Self::meant(&named),
            ("" | "auto", _) => automatic(query),
            _ => return uri.to_owned(),
        };
        if query.is_empty() { meant } else { format!("{meant}?{query}") }
    }

    /// Parses what Nix takes for `--store`.
    ///
    /// # Errors
    /// [`StoreUriError`].
    ///
    /// Source: Nix `StoreReference::parse`.
    pub fn parse(uri: &str) -> Result<Self, StoreUriError> {
        let uri = &Self::meant(uri);
        let (place, query) = uri.split_once('?').unwrap_or((uri, ""));
        if let Some((scheme, authority)) = place.split_once("://") {
            return match scheme {
                "s3" => {
                    let mut parameters = Parameters::parse(uri, query)?;
                    let store_dir = parameters.store_dir()?;
                    let rest = without(place, query, &[&COMMON, &CACHE, &WEB, &BUCKET, &[STORE_DIR]]);
                    Ok(Self { kind: Kind::Cache(Place::parse(&rest)?), store_dir })
                }
                "http" | "https" => {
                    let store_dir = Parameters::parse(uri, query)?.only_store_dir(&[&CACHE, &WEB])?;
                    Ok(Self { kind: Kind::Web(Web::parse(place)?), store_dir })
                }
                "file" => {
                    let store_dir = Parameters::parse(uri, query)?.only_store_dir(&[&CACHE])?;
                    Ok(Self { kind: Kind::Cache(Place::parse(place)?), store_dir })
                }
                "unix" => daemon(Parameters::parse(uri, query)?, &decoded(uri, authority)?),
                "local" => local(Parameters::parse(uri, query)?, &decoded(uri, authority)?),
                "ssh-ng" => ssh(Parameters::parse(uri, query)?, authority),
                "ssh" => Err(StoreUriError::Part {
                    uri: uri.to_owned(),
                    why: "the old protocol over ssh states too little: use ssh-ng://".into(),
                }),
                _ => Err(StoreUriError::Kind(without_password(uri))),
            };
        }
        let parameters = Parameters::parse(uri, query)?;
        match place {
            "daemon" => daemon(parameters, ""),
            "local" => local(parameters, ""),
            // A directory is a binary cache where it says that it is one, and a store's root otherwise. Which of them it is must not be
            // for whoever wrote a disk to say.
            path if Path::new(path).join(CACHE_INFO).exists() => {
                if Path::new(path).join("nix").symlink_metadata().is_ok() {
                    let why = "this is a store's root with a nix-cache-info: say local?root=… or file://…";
                    return Err(parameters.wrong(why));
                }
                let store_dir = parameters.only_store_dir(&[&CACHE])?;
                Ok(Self { kind: Kind::Cache(Place::parse(path)?), store_dir })
            }
            path if path.contains('/') || Path::new(path).is_dir() => local(parameters, path),
            _ => Err(StoreUriError::Kind(uri.to_owned())),
        }
    }

    /// Returns what tells it apart from other stores, as far as that can be told from here: two whose bytes may be different have
    /// different ones. `store_dir` is the store directory that it was opened for.
    #[must_use]
    pub fn identity(&self, store_dir: &StoreDir) -> String {
        let which = match &self.kind {
            Kind::Cache(place) => place.which(),
            Kind::Web(web) => web.to_string(),
            Kind::Daemon(remote, None, _) => remote.identity(),
            Kind::Daemon(remote, Some(files), _) => format!("{}, {}", remote.identity(), files.identity(store_dir)),
            Kind::Local(local) => local.identity(store_dir),
        };
        format!("{which}, for {store_dir}")
    }

    /// Takes passwords for hosts from a file, as Nix from its `netrc-file`. Unless told otherwise, that is `/etc/nix/netrc`.
    #[must_use]
    pub fn with_netrc(self, netrc: &Path) -> Self {
        match self.kind {
            Kind::Web(web) => Self { kind: Kind::Web(web.with_netrc(netrc)), ..self },
            _ => self,
        }
    }

    /// Opens it to read. Nothing is made or changed. `expected` is the store directory that it must be of; without one it may be
    /// of any.
    ///
    /// # Errors
    /// When it is not there, cannot be reached, or is another store directory's.
    pub async fn open(&self, expected: Option<&StoreDir>) -> Result<Arc<dyn Store>, StoreError> {
        if let (Some(stated), Some(expected)) = (&self.store_dir, expected)
            && stated != expected
        {
            return Err(StoreError::StoreDir { found: stated.to_string(), expected: expected.clone() });
        }
        // A cache says itself of which one it is.
        let expected = expected.or(self.store_dir.as_ref());
        let store_dir = expected.cloned().unwrap_or_default();
        Ok(match &self.kind {
            Kind::Cache(place) => Arc::new(BinaryCache::open_existing(place.open_existing().await?, expected).await?),
            Kind::Web(web) => Arc::new(WebCache::open(web, expected).await?),
            Kind::Daemon(remote, files, most) => {
                let files = files.as_ref().map(|files| files.contents_within(&store_dir)).transpose()?;
                Arc::new(Daemon::connect_with(remote.clone(), files, *most, &store_dir).await?)
            }
            Kind::Local(local) => Arc::new(LocalStore::open(local, &store_dir).await?),
        })
    }
}

/// The parameters of a URI, decoded.
struct Parameters<'a> {
    uri: &'a str,
    found: BTreeMap<String, String>,
    /// The names of those that such a store takes.
    known: Vec<&'static str>,
}

impl<'a> Parameters<'a> {
    fn parse(uri: &'a str, query: &str) -> Result<Self, StoreUriError> {
        let mut found = BTreeMap::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or_else(|| StoreUriError::Part {
                uri: without_password(uri),
                why: format!("expected NAME=VALUE, found {parameter:?}"),
            })?;
            found.insert(decoded(uri, name)?, decoded(uri, value)?);
        }
        Ok(Self { uri, found, known: Vec::new() })
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.found.remove(name).filter(|value| !value.is_empty())
    }

    fn store_dir(&mut self) -> Result<Option<StoreDir>, StoreUriError> {
        let store = self.take(STORE_DIR);
        store.map(|text| StoreDir::new(text).map_err(|error| self.wrong(&format!("store: {error}")))).transpose()
    }

    /// Takes how many connections there may be at once. There is always one, as in Nix.
    fn max_connections(&mut self) -> Result<Option<usize>, StoreUriError> {
        let stated = self.take("max-connections");
        let stated =
            stated.map(|text| text.parse::<i32>().map_err(|error| self.wrong(&format!("max-connections: {error}"))));
        Ok(stated.transpose()?.map(|most| usize::try_from(most).unwrap_or(1).max(1)))
    }

    fn wrong(&self, why: &str) -> StoreUriError {
        StoreUriError::Part { uri: without_password(self.uri), why: why.to_owned() }
    }

    /// Returns the store directory, where nothing else is of use.
    fn only_store_dir(mut self, unused: &[&[&'static str]]) -> Result<Option<StoreDir>, StoreUriError> {
        let store_dir = self.store_dir()?;
        self.nothing_else(unused).map(|()| store_dir)
    }

    /// Refuses parameters that nobody has taken, but for those that change nothing in how such a store is read.
    fn nothing_else(mut self, unused: &[&[&'static str]]) -> Result<(), StoreUriError> {
        self.known.extend(unused.iter().chain([&&COMMON[..]]).copied().flatten());
        match self.found.keys().find(|name| !self.known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(&format!("unknown parameter {name:?}: there are {}", self.known.join(", ")))),
            None => Ok(()),
        }
    }
}

/// Leaves parameters out.
fn without(place: &str, query: &str, names: &[&[&str]]) -> String {
    let is_left_out = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        names.iter().any(|names| names.contains(&name))
    };
    let kept: Vec<&str> = query.split('&').filter(|parameter| !is_left_out(parameter)).collect();
    if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) }
}

fn decoded(uri: &str, text: &str) -> Result<String, StoreUriError> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded
        .map_err(|error| StoreUriError::Part { uri: without_password(uri), why: error.to_string() })?
        .into_owned())
}

/// Nix's choice: the store itself for those who may write it, its daemon for others, where there is one.
fn automatic(query: &str) -> String {
    let stated = query.split('&').find_map(|parameter| parameter.strip_prefix("state="));
    let stated = stated.and_then(|text| percent_decode_str(text).decode_utf8().ok());
    let state = stated.map_or_else(directories::state, |text| text.into_owned().into());
    let writable = rustix::fs::access(&state, Access::READ_OK | Access::WRITE_OK).is_ok();
    match directories::own_root().filter(|_| query.is_empty()) {
        _ if writable => "local".to_owned(),
        _ if directories::socket().exists() => "daemon".to_owned(),
        Some(root) => root.display().to_string(),
        None => "local".to_owned(),
    }
}

fn daemon(mut parameters: Parameters<'_>, path: &str) -> Result<StoreUri, StoreUriError> {
    let store_dir = parameters.store_dir()?;
    let (root, real) = (parameters.take("root").map(PathBuf::from), parameters.take("real").map(PathBuf::from));
    let most = parameters.max_connections()?;
    parameters.nothing_else(&[&["state", "log", "max-connection-age", "read-only"]])?;
    // The machine's own daemon serves the machine's own files. Of another one they are where the URI says, or nowhere near.
    let files = (path.is_empty() || root.is_some() || real.is_some()).then_some(Local { root, state: None, real });
    let socket = if path.is_empty() { directories::socket() } else { path.into() };
    Ok(StoreUri { kind: Kind::Daemon(Remote::Socket(socket), files, most), store_dir })
}

fn local(mut parameters: Parameters<'_>, path: &str) -> Result<StoreUri, StoreUriError> {
    let root = parameters.take("root").or_else(|| (!path.is_empty()).then(|| path.to_owned()));
    let root = root.map(|root| std::path::absolute(&root).map_err(|error| parameters.wrong(&error.to_string())));
    let root = root.transpose()?;
    let store_dir = parameters.store_dir()?;
    let state = parameters.take("state").map(PathBuf::from);
    let real = parameters.take("real").map(PathBuf::from);
    parameters.nothing_else(&[&[
        "log",
        "read-only",
        "require-sigs",
        "use-roots-daemon",
        "build-dir",
        "ignore-gc-delete-failure",
    ]])?;
    Ok(StoreUri { kind: Kind::Local(Local { root, state, real }), store_dir })
}

fn ssh(mut parameters: Parameters<'_>, authority: &str) -> Result<StoreUri, StoreUriError> {
    let store_dir = parameters.store_dir()?;
    let program = parameters.take("remote-program").unwrap_or_else(|| "nix-daemon".into());
    let ssh = Ssh {
        authority: authority.to_owned(),
        program: program.split_whitespace().map(str::to_owned).collect(),
        store: parameters.take("remote-store"),
        key: parameters.take("ssh-key").map(PathBuf::from),
        host_key: parameters.take("base64-ssh-public-host-key"),
        compress: parameters.take("compress").is_some_and(|value| value == "true"),
    };
    if let Some(why) = ssh.mistake() {
        return Err(parameters.wrong(&why));
    }
    let most = parameters.max_connections()?;
    parameters.nothing_else(&[&["max-connection-age"]])?;
    Ok(StoreUri { kind: Kind::Daemon(Remote::Ssh(ssh), None, most), store_dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(uri: &str) -> Kind {
        StoreUri::parse(uri).unwrap_or_else(|error| panic!("{error}")).kind
    }

    #[test]
    fn a_disk_does_not_say_what_it_is() {
        let folder = tempfile::tempdir().expect("a directory");
        let place = folder.path().display().to_string();
        assert_eq!(kind(&place), Kind::Local(Local { root: Some(folder.path().into()), state: None, real: None }));
        std::fs::write(folder.path().join(CACHE_INFO), "StoreDir: /nix/store\n").expect("room for a file");
        assert_eq!(kind(&place), kind(&format!("file://{place}")));
        std::fs::create_dir(folder.path().join("nix")).expect("room for a directory");
        let error = StoreUri::parse(&place).expect_err("it is both").to_string();
        assert!(error.contains("local?root="), "{error}");
        assert!(matches!(kind(&format!("local?root={place}")), Kind::Local(_)));
    }

    #[test]
    fn stores_with_other_bytes_are_told_apart() {
        let folder = tempfile::tempdir().expect("a directory");
        let place = folder.path().display();
        for name in ["a/nix/store", "a/nix/var/nix/db", "b/nix/store", "c"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("room for directories");
        }
        std::fs::write(folder.path().join("a/nix/var/nix/db/db.sqlite"), "").expect("room for a file");
        std::os::unix::fs::symlink("a", folder.path().join("link")).expect("room for a link");
        let of = |uri: &str, store_dir: &StoreDir| {
            StoreUri::parse(uri).unwrap_or_else(|error| panic!("{error}")).identity(store_dir)
        };
        let identity = |uri: &str| of(uri, &StoreDir::default());
        let (a, b) = (format!("local?root={place}/a"), format!("local?root={place}/b"));
        let different = [
            ("ssh-ng://h".to_owned(), "ssh-ng://h?remote-store=/mnt/restored".to_owned()),
            ("ssh-ng://h".to_owned(), "ssh-ng://h?remote-program=other".to_owned()),
            ("ssh-ng://h".to_owned(), "ssh-ng://h?ssh-key=/other".to_owned()),
            ("ssh-ng://h".to_owned(), "ssh-ng://h:23".to_owned()),
            (a.clone(), b.clone()),
            (a.clone(), format!("{a}&real={place}/b/nix/store")),
            (a.clone(), format!("{a}&state={place}/c")),
            (format!("unix://{place}/s"), format!("unix://{place}/s?root={place}/a")),
            (format!("unix://{place}/s?root={place}/a"), format!("unix://{place}/s?root={place}/b")),
            (format!("unix://{place}/s?real={place}/a"), format!("unix://{place}/s?real={place}/b")),
            ("s3://cache".to_owned(), "s3://cache?endpoint=https://e".to_owned()),
            ("s3://cache?endpoint=https://e".to_owned(), "s3://cache?endpoint=https://e&region=r".to_owned()),
            ("s3://cache?endpoint=https://e".to_owned(), "s3://cache?endpoint=https://e&profile=p".to_owned()),
            ("https://a/b".to_owned(), "https://a/c".to_owned()),
        ];
        for (one, other) in different {
            assert_ne!(identity(&one), identity(&other), "{one} and {other}");
        }
        let same = [
            (format!("file://{place}/link"), format!("file://{place}/a/../a")),
            (format!("local?root={place}/link"), a.clone()),
            ("ssh-ng://h?compress=true".to_owned(), "ssh-ng://h".to_owned()),
        ];
        for (one, other) in same {
            assert_eq!(identity(&one), identity(&other), "{one} and {other}");
        }
        let elsewhere = StoreDir::new("/gnu/store").expect("a store directory");
        for uri in [&a, "https://a", "ssh-ng://h"] {
            assert_ne!(identity(uri), of(uri, &elsewhere), "{uri}");
        }
        // Something else at the same place is another store.
        for (uri, moved) in [(format!("file://{place}/c"), "c"), (b.clone(), "b/nix/store"), (b, "b")] {
            let before = identity(&uri);
            let moved = folder.path().join(moved);
            std::fs::rename(&moved, moved.with_extension("old")).expect("it is there");
            std::fs::create_dir_all(moved.join("nix/store")).expect("room for directories");
            assert_ne!(before, identity(&uri), "{uri}");
        }
    }

    #[test]
    fn takes_what_nix_takes_and_no_reader_needs() {
        let common = COMMON.map(|name| format!("{name}=1")).join("&");
        let cache = CACHE.map(|name| format!("{name}=1")).join("&");
        let web = WEB.map(|name| format!("{name}=1")).join("&");
        let bucket = BUCKET.map(|name| format!("{name}=false")).join("&");
        for (uri, means) in [
            (format!("s3://cache?{common}&{cache}&{web}&{bucket}"), "s3://cache"),
            ("s3://cache?compression=xz&region=eu-west-1&trusted=true".into(), "s3://cache?region=eu-west-1"),
            (format!("https://cache.example.org?{common}&{cache}&{web}"), "https://cache.example.org"),
            ("http://cache?secret-key=/k&narinfo-compression=br".into(), "http://cache"),
            (format!("file:///a?{common}&{cache}"), "file:///a"),
            (format!("local?{common}&build-dir=/b&ignore-gc-delete-failure=true"), "local"),
            (format!("unix:///s?{common}&max-connection-age=1"), "unix:///s"),
            (format!("ssh-ng://h?{common}"), "ssh-ng://h"),
        ] {
            assert_eq!(kind(&uri), kind(means), "{uri}");
        }
        for place in ["s3://cache", "https://cache", "file:///a", "local", "unix:///s", "ssh-ng://h"] {
            let parse = |parameters: &str| StoreUri::parse(&format!("{place}?{parameters}"));
            let stated = parse("store=%2Fgnu%2Fstore&trusted=1").expect("a store directory").store_dir;
            assert_eq!(stated.map(|dir| dir.to_string()).as_deref(), Some("/gnu/store"), "{place}");
            let error = parse("trused=1").expect_err("nobody takes this").to_string();
            let known = if place.starts_with("s3") { "there are region" } else { "there are " };
            assert!(error.contains("unknown parameter \"trused\"") && error.contains(known), "{error}");
        }
    }

    #[tokio::test]
    async fn a_cache_is_of_the_store_directory_that_is_stated() {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join(CACHE_INFO), "StoreDir: /gnu/store\n").expect("room for a file");
        let place = format!("file://{}", folder.path().display());
        for (query, says) in [("", None), ("?store=/gnu/store", None), ("?store=/nix/store", Some("for /gnu/store"))] {
            let opened = StoreUri::parse(&format!("{place}{query}")).expect("a store").open(None).await;
            let error = opened.map(|store| store.store_dir().to_string()).map_err(|error| error.to_string());
            match says {
                None => assert_eq!(error.as_deref(), Ok("/gnu/store"), "{query}"),
                Some(says) => assert!(error.as_ref().is_err_and(|error| error.contains(says)), "{query}: {error:?}"),
            }
        }
    }

    #[test]
    fn names_the_stores_that_nix_names() {
        let socket = |path: &str| Kind::Daemon(Remote::Socket(path.into()), None, None);
        assert_eq!(kind("unix:///run/a%20b?max-connection-age=3"), socket("/run/a b"));
        for (said, most) in [("3", 3), ("0", 1), ("-1", 1)] {
            for uri in ["unix://socket", "ssh-ng://host"] {
                let daemon = kind(&format!("{uri}?max-connections={said}"));
                assert!(matches!(daemon, Kind::Daemon(_, None, Some(found)) if found == most), "{said}");
            }
        }
        let files = Local { root: Some("/x".into()), ..Local::default() };
        assert_eq!(kind("unix://s?root=/x"), Kind::Daemon(Remote::Socket("s".into()), Some(files), None));
        assert!(matches!(kind("daemon"), Kind::Daemon(_, Some(_), None)));
        assert_eq!(kind("unix://socket"), socket("socket"));
        let root = |path: &str| Kind::Local(Local { root: Some(path.into()), state: None, real: None });
        assert_eq!(kind("/mnt/root"), root("/mnt/root"));
        assert_eq!(kind("local?root=/mnt/root"), root("/mnt/root"));
        assert_eq!(kind("local:///mnt/root"), root("/mnt/root"));
        assert_eq!(kind("/"), root("/"));
        assert_eq!(kind("local"), Kind::Local(Local { root: None, state: None, real: None }));
        assert_eq!(kind("file:///a?compression=xz"), kind("file:///a"));
        assert!(matches!(kind("https://cache.example.org"), Kind::Web(_)));
        assert!(matches!(kind("s3://cache?region=eu-west-1"), Kind::Cache(_)));
        let Kind::Daemon(Remote::Ssh(ssh), None, None) =
            kind("ssh-ng://ann@host:22?remote-program=a%20b&compress=true")
        else {
            panic!("it is reached by ssh");
        };
        assert_eq!((&*ssh.authority, ssh.compress), ("ann@host:22", true));
        assert_eq!(ssh.program, ["a", "b"]);
        let other = StoreUri::parse("local?store=/gnu/store").expect("a store");
        assert_eq!(other.store_dir.map(|dir| dir.to_string()), Some("/gnu/store".into()));
        let wrong = [
            ("cache", "expected a store as"),
            ("gs://bucket", "expected a store as"),
            ("ssh://host", "ssh-ng"),
            ("ssh-ng://-oProxyCommand=x", "host"),
            ("ssh-ng://", "host"),
            ("ssh-ng://a@-b", "host"),
            ("ssh-ng://host?max-connections=many", "max-connections: invalid digit"),
            ("ssh-ng://host?root=/mnt", "unknown parameter \"root\""),
            ("unix:///s?nonsense=1", "unknown parameter \"nonsense\""),
            ("local?root", "NAME=VALUE"),
            ("file:///a?region=x", "unknown parameter"),
            ("local?store=nowhere", "store:"),
        ];
        for (text, says) in wrong {
            let error = StoreUri::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
