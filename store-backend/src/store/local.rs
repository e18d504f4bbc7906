//! A store on this machine, read without its daemon: what Nix knows is in a SQLite database, and contents are files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, params};
use tokio::task::spawn_blocking;
use verifier::{ContentAddress, NarHash, OutputId, PathInfo, StoreDir, StorePath};

use super::StoreError;
use super::derivation::outputs;
use super::directories;
use super::reading::{Listed, Nar, Outputs, Pace, Statement, Statements, Store};
use crate::object::ObjectError;

/// Which files make up a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Under which directory all of them are; none for the machine's own.
    pub root: Option<PathBuf>,
    /// Where Nix keeps what it knows; none for its usual place.
    pub state: Option<PathBuf>,
    /// Where the contents are; none for the store directory itself.
    pub real: Option<PathBuf>,
}

impl Local {
    fn under_root(&self, path: &str) -> PathBuf {
        self.root.as_ref().map_or_else(|| path.into(), |root| root.join(path.trim_start_matches('/')))
    }

    fn database(&self) -> PathBuf {
        let own = match &self.root {
            Some(_) => self.under_root(directories::STATE),
            None => directories::state(),
        };
        self.state.clone().unwrap_or(own).join("db/db.sqlite")
    }

    /// Says which store this is, as far as this machine can tell.
    pub(super) fn identity(&self, store_dir: &StoreDir) -> String {
        let (known, contents) = (directories::which(&self.database()), directories::which(&self.contents(store_dir)));
        format!("{known} with the contents in {contents}")
    }

    /// Refuses a place below the root that is reached by a link: it would lead elsewhere where the root is `/`, and perhaps out of
    /// what is audited now.
    fn leads_nowhere_else(&self, place: &Path) -> Result<(), StoreError> {
        let Some((root, inside)) = self.root.as_ref().and_then(|root| Some((root, place.strip_prefix(root).ok()?)))
        else {
            return Ok(());
        };
        let mut here = root.clone();
        for part in inside.components() {
            here.push(part);
            if here.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
                let why = "this is a symbolic link, and may lead out of the root; give real= and state=".into();
                return Err(StoreError::Database { place: here.display().to_string(), why });
            }
        }
        Ok(())
    }

    pub(super) fn contents(&self, store_dir: &StoreDir) -> PathBuf {
        self.real.clone().unwrap_or_else(|| self.under_root(store_dir.as_str()))
    }
}

/// A store on this machine.
pub struct LocalStore {
    store_dir: StoreDir,
    contents: PathBuf,
    database: Arc<Database>,
}

struct Database {
    place: PathBuf,
    connection: Mutex<Connection>,
}

impl LocalStore {
    /// Opens a store to read. Nothing is made or changed.
    ///
    /// # Errors
    /// When there is no database, or it cannot be read.
    pub async fn open(local: &Local, store_dir: &StoreDir) -> Result<Self, StoreError> {
        let (place, contents) = (local.database(), local.contents(store_dir));
        for place in [&contents, &place] {
            local.leads_nowhere_else(place)?;
        }
        let database = spawn_blocking(move || Database::open(place)).await.map_err(ObjectError::from)??;
        Ok(Self { store_dir: store_dir.clone(), contents, database: Arc::new(database) })
    }

    /// Asks the database, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection, &StoreDir) -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (database, store_dir) = (self.database.clone(), self.store_dir.clone());
        let asked = spawn_blocking(move || {
            let connection = database.connection.lock().unwrap_or_else(PoisonError::into_inner);
            question(&connection, &store_dir).map_err(|error| database.failed(error))
        });
        asked.await.map_err(ObjectError::from)?
    }
}

/// Why the database did not answer.
enum AnswerError {
    Sqlite(rusqlite::Error),
    /// What it says of a path makes no sense.
    Nonsense(String),
}

impl From<rusqlite::Error> for AnswerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Database {
    fn open(place: PathBuf) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError::Database { place: place.display().to_string(), why };
        if let Err(error) = std::fs::metadata(&place) {
            return Err(failed(format!("{error}: here is no Nix store, nor a binary cache with its nix-cache-info")));
        }
        let connection = match open_live(&place) {
            // Its log can only be read by those who may also write, or not at all where it is on a medium that nobody writes.
            // Where there is none, or an empty one, everything is in the database.
            Err(error) if is_closed(&error) && !has_log(&place) => open_still(&place),
            Err(error) if is_closed(&error) => {
                return Err(failed(format!(
                    "{error}: it is in use, and you may not read its log; run this as root, or give --store daemon"
                )));
            }
            opened => opened,
        };
        match connection {
            Ok(connection) => Ok(Self { place, connection: Mutex::new(connection) }),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn failed(&self, error: AnswerError) -> StoreError {
        let why = match error {
            AnswerError::Sqlite(error) => error.to_string(),
            AnswerError::Nonsense(why) => why,
        };
        StoreError::Database { place: self.place.display().to_string(), why }
    }
}

/// Opens a database that others may be writing.
fn open_live(place: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    probed(Connection::open_with_flags(place, flags)?)
}

/// Opens a database that nobody writes.
fn open_still(place: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let escaped = place.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    probed(Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?)
}

fn probed(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(std::time::Duration::from_secs(60))?;
    // Nothing is read, and nothing locked, before the first question.
    connection.query_row("select count(*) from (select 1 from ValidPaths limit 1)", [], |_| Ok(()))?;
    Ok(connection)
}

fn is_closed(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

fn has_log(place: &Path) -> bool {
    let mut log = place.as_os_str().to_owned();
    log.push("-wal");
    // One that cannot be looked at may have something in it.
    match std::fs::metadata(log) {
        Ok(metadata) => metadata.len() > 0,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// A row of what Nix knows, with its number.
struct Known {
    id: i64,
    nar_hash: String,
    registration_time: i64,
    deriver: Option<String>,
    nar_size: Option<i64>,
    ultimate: Option<i64>,
    signatures: Option<String>,
    content_address: Option<String>,
}

impl Known {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            nar_hash: row.get(1)?,
            registration_time: row.get(2)?,
            deriver: row.get(3)?,
            nar_size: row.get(4)?,
            ultimate: row.get(5)?,
            signatures: row.get(6)?,
            content_address: row.get(7)?,
        })
    }

    fn understood(
        self,
        path: StorePath,
        references: BTreeSet<StorePath>,
        store_dir: &StoreDir,
    ) -> Result<PathInfo, AnswerError> {
        let nonsense = |what: &str, why: String| {
            AnswerError::Nonsense(format!("{what} of {} makes no sense: {why}", store_dir.render_path(&path)))
        };
        let nar_hash = NarHash::parse(&self.nar_hash).map_err(|error| nonsense("the NAR hash", error.to_string()))?;
        let address = ContentAddress::parse_optional(self.content_address.as_deref().unwrap_or_default());
        let content_address = address.map_err(|error| nonsense("the content address", error.to_string()))?;
        // A deriver is a remark: one that makes no sense is none.
        let deriver = self.deriver.and_then(|deriver| store_dir.parse_path(deriver.as_bytes()).ok());
        Ok(PathInfo {
            deriver,
            nar_hash,
            // Where it is not known, nobody can have signed it.
            nar_size: u64::try_from(self.nar_size.unwrap_or(0)).unwrap_or(0),
            references,
            registration_time: u64::try_from(self.registration_time).unwrap_or(0),
            ultimate: self.ultimate.is_some_and(|flag| flag != 0),
            signatures: self.signatures.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect(),
            content_address,
            path,
        })
    }
}

/// Source: Nix `src/libstore/schema.sql`; `LocalStore::queryPathInfoInternal`.
fn info(connection: &Connection, store_dir: &StoreDir, path: StorePath) -> Result<Option<PathInfo>, AnswerError> {
    let mut find = connection.prepare_cached(
        "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca from ValidPaths where path = ?1",
    )?;
    let Some(known) = find.query_row(params![store_dir.render_path(&path)], Known::of).optional()? else {
        return Ok(None);
    };
    let mut list =
        connection.prepare_cached("select path from Refs join ValidPaths on reference = id where referrer = ?1")?;
    let mut references = BTreeSet::new();
    let mut rows = list.query(params![known.id])?;
    while let Some(row) = rows.next()? {
        references.insert(parse(store_dir, &row.get::<_, String>(0)?)?);
    }
    known.understood(path, references, store_dir).map(Some)
}

fn parse(store_dir: &StoreDir, path: &str) -> Result<StorePath, AnswerError> {
    store_dir.parse_path(path.as_bytes()).map_err(|error| {
        AnswerError::Nonsense(format!("expected a path in {store_dir}, found {}: {error}", policy::escaped(path)))
    })
}

#[async_trait]
impl Store for LocalStore {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn pace(&self) -> Pace {
        Pace { at_once: 1, paths: 256 }
    }

    async fn statements(&self, paths: Vec<StorePath>) -> Statements {
        let (database, store_dir) = (self.database.clone(), self.store_dir.clone());
        let asked = spawn_blocking(move || {
            let connection = database.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let statement = |path: StorePath| match info(&connection, &store_dir, path.clone()) {
                Ok(info) => (path, Ok(info.map(Statement::of))),
                Err(error) => (path, Err(database.failed(error))),
            };
            paths.into_iter().map(statement).collect()
        });
        // It ends without an answer only where it panics, and nothing in it does.
        asked.await.unwrap_or_default()
    }

    async fn valid_among(&self, paths: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        self.ask(move |connection, store_dir| {
            let mut find = connection.prepare_cached("select 1 from ValidPaths where path = ?1")?;
            let mut valid = BTreeSet::new();
            for path in paths {
                if find.exists(params![store_dir.render_path(&path)])? {
                    valid.insert(path);
                }
            }
            Ok(valid)
        })
        .await
    }

    async fn all_paths(&self) -> Result<Listed, StoreError> {
        self.ask(|connection, store_dir| {
            let mut listed = Listed::default();
            let mut list = connection.prepare("select path from ValidPaths")?;
            let mut rows = list.query([])?;
            while let Some(row) = rows.next()? {
                match parse(store_dir, &row.get::<_, String>(0)?) {
                    Ok(path) => {
                        listed.add(path);
                    }
                    Err(AnswerError::Nonsense(why)) => listed.add_unreadable(why),
                    Err(error) => return Err(error),
                }
            }
            Ok(listed)
        })
        .await
    }

    async fn outputs(&self, derivation: &Statement) -> Result<Outputs, StoreError> {
        outputs(self, derivation).await
    }

    async fn realised(&self, id: &OutputId) -> Result<Option<StorePath>, StoreError> {
        let OutputId::Hash { drv_hash, output } = id.clone() else {
            return Ok(None);
        };
        self.ask(move |connection, store_dir| {
            // Nix makes the table where somebody has enabled derivations of the kind.
            let is_there = "select 1 from sqlite_master where type = 'table' and name = 'Realisations'";
            if !connection.prepare_cached(is_there)?.exists([])? {
                return Ok(None);
            }
            let find = "select path from Realisations join ValidPaths on ValidPaths.id = outputPath \
                        where drvPath = ?1 and outputName = ?2";
            let mut find = connection.prepare_cached(find)?;
            let found = find.query_row(params![drv_hash, output], |row| row.get::<_, String>(0)).optional()?;
            found.map(|path| parse(store_dir, &path)).transpose()
        })
        .await
    }

    async fn open_nar(&self, statement: &Statement) -> Result<Option<Nar>, StoreError> {
        Ok(files_of(&self.contents, &statement.info.path))
    }
}

/// Returns the contents of a path that are in a store's directory; none if they are not there.
pub(super) fn files_of(contents: &Path, path: &StorePath) -> Option<Nar> {
    let place = contents.join(path.to_basename());
    match std::fs::symlink_metadata(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        // Where nobody can look, reading says why.
        _ => Some(Nar::Files(place)),
    }
}
