//! The database of a store on this machine, opened to be read. Whoever wrote the disk that it is on may have made it up, so that no
//! question of it ends, or that an answer fills the memory; and it must never be written.
//!
//! Source: SQLite, "Defense Against The Dark Arts".

use std::ffi::{OsString, c_int};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;
use super::directories;

/// Where the database is, below where Nix keeps what it knows.
pub(super) const DATABASE: &str = "db/db.sqlite";

/// The tables that are read, of all versions of Nix.
const TABLES: [&str; 4] = ["ValidPaths", "Refs", "Realisations", "BuildTraceV3"];

/// How long a question may take. To list the largest stores there are takes seconds, from a slow disk a minute.
const LONGEST: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 300 });

/// After so many of SQLite's operations, which take microseconds, one looks at the clock.
const OPERATIONS: c_int = 1_000;

/// Largest row, in bytes: a thousand signatures have a tenth of this.
const MAX_ROW: c_int = 1 << 20;

/// Most tables, indices, triggers and views: all that Nix has ever made are some twenty.
const MAX_SCHEMA: c_int = 1_000;

/// Why the database did not answer.
pub(super) enum AnswerError {
    Sqlite(rusqlite::Error),
    /// What it says makes no sense.
    Nonsense(String),
}

impl From<rusqlite::Error> for AnswerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A database that is read, one question after the other.
pub(super) struct Database {
    place: PathBuf,
    connection: Mutex<Connection>,
    /// What it was when it was opened, where it is read without a look at what others do.
    still: Option<Version>,
    /// Whether a question has taken too long.
    is_stuck: AtomicBool,
}

impl Database {
    /// Opens a database that is there. Nothing is made or changed, but for SQLite's own files beside the machine's own, and beside one
    /// that was left with a log.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or is none that Nix has made.
    pub(super) fn open(place: PathBuf) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError::Database { place: place.display().to_string(), why };
        if let Err(error) = std::fs::metadata(&place) {
            return Err(failed(format!("{error}: here is no Nix store, nor a binary cache with its nix-cache-info")));
        }
        expect_files(&place)?;
        let version = Version::of(&place);
        let (connection, still) = if is_at_rest(&place) && !is_own(&place) {
            (open_still(&place), version)
        } else {
            match open_live(&place) {
                // Its log can only be read by those who may also write, or not at all where it is on a medium that nobody writes.
                // Where there is none, or an empty one, everything is in the database.
                Err(error) if is_closed(&error) && !has_log(&place) => (open_still(&place), version),
                Err(error) if is_closed(&error) => {
                    return Err(failed(format!(
                        "{error}: it is in use, and you may not read its log; run this as root, or give --store daemon"
                    )));
                }
                opened => (opened, None),
            }
        };
        let connection = Mutex::new(connection.map_err(|error| failed(error.to_string()))?);
        let this = Self { place, connection, still, is_stuck: AtomicBool::new(false) };
        this.ask(expect_tables)?;
        Ok(this)
    }

    /// Asks it, on a thread that may block.
    ///
    /// # Errors
    /// [`StoreError::Stalled`] when that takes too long, as every question from then on; [`StoreError::Changed`] when what was read may
    /// be partly of one moment, and partly of another; otherwise what is wrong with it.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Connection) -> Result<T, AnswerError>) -> Result<T, StoreError> {
        if self.is_stuck.load(Ordering::Relaxed) {
            return Err(self.stalled());
        }
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let watched = connection.progress_handler(OPERATIONS, Some(move || began.elapsed() > LONGEST));
        let answer = watched.map_err(AnswerError::from).and_then(|()| question(&connection));
        // Whoever writes it begins with a log, and then changes it.
        if self.still.is_some() && (has_log(&self.place) || self.still != Version::of(&self.place)) {
            return Err(StoreError::Changed { place: self.place.display().to_string() });
        }
        answer.map_err(|error| self.failed(error))
    }

    /// Says why it did not answer.
    pub(super) fn failed(&self, error: AnswerError) -> StoreError {
        let why = match error {
            AnswerError::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::OperationInterrupted) => {
                    self.is_stuck.store(true, Ordering::Relaxed);
                    return self.stalled();
                }
                Some(ErrorCode::AuthorizationForStatementDenied) => {
                    format!("expected Nix's own tables, found what is made up of others: {error}")
                }
                _ => error.to_string(),
            },
            AnswerError::Nonsense(why) => why,
        };
        StoreError::Database { place: self.place.display().to_string(), why }
    }

    fn stalled(&self) -> StoreError {
        StoreError::Stalled { place: self.place.display().to_string(), seconds: LONGEST.as_secs() }
    }
}

/// What tells a file from what it was before.
#[derive(Debug, PartialEq, Eq)]
struct Version([i128; 4]);

impl Version {
    /// Returns what a file is now; none if it is not there.
    fn of(place: &Path) -> Option<Self> {
        let found = std::fs::metadata(place).ok()?;
        let moment = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let (written, changed) = (moment(found.mtime(), found.mtime_nsec()), moment(found.ctime(), found.ctime_nsec()));
        Some(Self([found.ino().into(), found.len().into(), written, changed]))
    }
}

/// Returns the name of a file that SQLite has beside a database.
fn beside(place: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(place);
    name.push(suffix);
    name.into()
}

/// Refuses what is no file: a pipe, for one, would be waited for.
fn expect_files(place: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let place = beside(place, suffix);
        let found = if suffix.is_empty() { std::fs::metadata(&place) } else { std::fs::symlink_metadata(&place) };
        if found.is_ok_and(|found| !found.is_file()) {
            let why = "expected a file, found something else".into();
            return Err(StoreError::Database { place: place.display().to_string(), why });
        }
    }
    Ok(())
}

/// Says whether there may be something that is not in the database yet, or not in it any more.
fn has_log(place: &Path) -> bool {
    ["-wal", "-journal"].into_iter().any(|suffix| match std::fs::metadata(beside(place, suffix)) {
        Ok(found) => found.len() > 0,
        // One that cannot be looked at may have something in it.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    })
}

/// Says whether nobody works with it, as far as that can be seen: who does has both files, and SQLite would make the ones that are not
/// there.
fn is_at_rest(place: &Path) -> bool {
    !has_log(place) && !["-wal", "-shm"].into_iter().all(|suffix| beside(place, suffix).exists())
}

/// Says whether it is the machine's own, which may be written at any time.
fn is_own(place: &Path) -> bool {
    let own = std::fs::canonicalize(directories::state().join(DATABASE));
    own.is_ok_and(|own| std::fs::canonicalize(place).is_ok_and(|place| place == own))
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

fn probed(mut connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SCHEMA, MAX_SCHEMA)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.authorizer(Some(judge))?;
    let began = Instant::now();
    connection.progress_handler(OPERATIONS, Some(move || began.elapsed() > LONGEST))?;
    // Nothing is read, and nothing locked, before the first question.
    connection.prepare("select name from sqlite_master limit 1")?.exists([])?;
    Ok(connection)
}

/// Lets nothing be read but Nix's own tables. What is made up of other things, as views and most virtual tables are, would read these.
fn judge(asked: AuthContext<'_>) -> Authorization {
    let is_fine = match asked.action {
        AuthAction::Select => true,
        AuthAction::Pragma { pragma_name, .. } => pragma_name == "table_xinfo",
        AuthAction::Read { table_name, .. } => {
            TABLES.contains(&table_name) || ["sqlite_master", "pragma_table_xinfo"].contains(&table_name)
        }
        _ => false,
    };
    if is_fine && asked.accessor.is_none() { Authorization::Allow } else { Authorization::Deny }
}

/// Refuses what only has the name of a table: it could be computed, and without end.
fn expect_tables(connection: &Connection) -> Result<(), AnswerError> {
    let mut find = connection.prepare("select sql from sqlite_master where name = ?1")?;
    let mut computes = connection.prepare("select 1 from pragma_table_xinfo(?1) where hidden <> 0")?;
    for table in TABLES {
        let is_not = |what: &str| AnswerError::Nonsense(format!("expected {table} to be a table, found {what}"));
        let mut rows = find.query([table])?;
        while let Some(row) = rows.next()? {
            // SQLite writes the first words itself.
            let made = row.get::<_, Option<String>>(0)?.unwrap_or_default();
            if !made.starts_with("CREATE TABLE ") {
                return Err(is_not(&policy::bounded(&made, 100)));
            }
        }
        if computes.exists([table])? {
            return Err(is_not("columns that are computed"));
        }
    }
    // Without this one it is no store's.
    connection.prepare("select path from ValidPaths limit 1")?.exists([])?;
    Ok(())
}

fn is_closed(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What Nix makes.
    pub(in super::super) const SCHEMA: &str = "
        create table ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null,
            registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
        create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference));
        create table DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id));
    ";

    /// Says for ever that there is one more path.
    const ENDLESS: &str = "with recursive numbers(n) as (select 1 union all select n + 1 from numbers)
        select n as id, 'x' || n as path, 'x' as hash, 1 as registrationTime, null as deriver, 1 as narSize, 1 as ultimate,
        'x' as sigs, null as ca, n as referrer, n as reference from numbers";

    /// Makes the database of the store at a root, and returns where it is.
    pub(in super::super) fn make(root: &Path, sql: &str) -> PathBuf {
        let place = root.join(directories::STATE.trim_start_matches('/')).join(DATABASE);
        std::fs::create_dir_all(place.parent().expect("it is in a directory")).expect("room for directories");
        let connection = Connection::open(&place).expect("room for a database");
        connection
            .execute_batch(&format!("pragma journal_mode = wal; {sql}"))
            .unwrap_or_else(|error| panic!("{error}"));
        place
    }

    fn names(place: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(place.parent().expect("it is in a directory")).expect("a directory");
        let mut names: Vec<OsString> = entries.map(|entry| entry.expect("it can be read").file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_computed_is_no_table() {
        let forged =
            "pragma writable_schema = on; update sqlite_master set type = 'table', rootpage = 2 where type = 'view';";
        let (ours, refs) = SCHEMA.split_at(SCHEMA.find("create table Refs").expect("it is there"));
        let columns = "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca";
        let computed = ours.replace("sigs text", "sigs text as (hex(zeroblob(1000)))");
        for (sql, says) in [
            (
                format!("create view ValidPaths as {ENDLESS}; {refs}"),
                "expected ValidPaths to be a table, found CREATE VIEW ValidPaths as with recursive",
            ),
            (format!("create view ValidPaths as {ENDLESS}; {refs} {forged}"), "ValidPaths"),
            (
                SCHEMA.replace("create table Refs", &format!("create view Refs as {ENDLESS}; create table Other")),
                "expected Refs to be a table, found CREATE VIEW",
            ),
            (format!("{SCHEMA} create view Realisations as {ENDLESS};"), "expected Realisations to be a table"),
            (format!("{SCHEMA} create view BuildTraceV3 as {ENDLESS};"), "expected BuildTraceV3 to be a table"),
            (format!("{computed} {refs}"), "columns that are computed"),
            (format!("create virtual table ValidPaths using fts5({columns}); {refs}"), "found CREATE VIRTUAL TABLE"),
            (format!("create virtual table ValidPaths using dbstat; {refs}"), "found CREATE VIRTUAL TABLE"),
            // Who knows what the rows say that are looked at here can lie in them.
            (
                format!(
                    "create virtual table ValidPaths using fts5({columns}); {refs} pragma writable_schema = on; \
                     update sqlite_master set name = 'x', tbl_name = 'x' where name = 'ValidPaths';"
                ),
                "",
            ),
            ("create table Other (path text);".to_owned(), "no such table: ValidPaths"),
        ] {
            let folder = tempfile::tempdir().expect("a directory");
            let place = make(folder.path(), &sql);
            let began = Instant::now();
            let error = Database::open(place).err().unwrap_or_else(|| panic!("{sql}")).to_string();
            assert!(error.contains(says), "{sql}: {error}");
            assert!(began.elapsed() < LONGEST, "{sql} was computed");
        }
    }

    #[test]
    fn nobody_waits_for_a_pipe() {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let folder = tempfile::tempdir().expect("a directory");
            let place = make(folder.path(), SCHEMA);
            let pipe = beside(&place, suffix);
            let _was_none = std::fs::remove_file(&pipe);
            let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("it is everywhere");
            assert!(made.success());
            let error = Database::open(place).err().expect("it is a pipe").to_string();
            assert!(error.contains("expected a file"), "{error}");
        }
    }

    #[test]
    fn no_question_takes_for_ever() {
        let folder = tempfile::tempdir().expect("a directory");
        let row = "insert into ValidPaths (path, hash, registrationTime) values";
        let rows: String = (0..500).map(|n| format!("{row} ('{n}', '', 1);")).collect();
        let database = Database::open(make(folder.path(), &format!("{SCHEMA} begin; {rows} commit;")));
        let database = database.unwrap_or_else(|error| panic!("{error}"));
        let endless = "select a.path from ValidPaths a, ValidPaths b, ValidPaths c, ValidPaths d \
                       where a.id + b.id + c.id + d.id < 0";
        let began = Instant::now();
        for _ in 0..3 {
            let answer = database.ask(|connection| Ok(connection.prepare(endless)?.exists([])?));
            assert!(matches!(answer, Err(StoreError::Stalled { .. })), "{answer:?}");
        }
        assert!(began.elapsed() < 2 * LONGEST, "who was stuck once is not asked again");
    }

    #[test]
    fn what_is_at_rest_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a directory");
        let place = make(folder.path(), SCHEMA);
        let count = |database: &Database| {
            database.ask(|connection| {
                let mut list = connection.prepare("select path from ValidPaths")?;
                let paths = list.query_map([], |row| row.get::<_, String>(0))?;
                Ok(paths.count())
            })
        };
        let before = names(&place);
        assert_eq!(before, ["db.sqlite"]);
        let database = Database::open(place.clone()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(count(&database).ok(), Some(0));
        assert_eq!(names(&place), before, "nothing was made");
        // Somebody writes after all, and has ended before the next question.
        let row = "insert into ValidPaths (path, hash, registrationTime) values ('x', '', 1)";
        let writer = Connection::open(&place).expect("it is a database");
        writer.execute(row, []).expect("it can be written");
        assert!(matches!(count(&database), Err(StoreError::Changed { .. })), "it is being written");
        let beside_a_writer = Database::open(place.clone()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(count(&beside_a_writer).ok(), Some(1), "with what is in the log");
        drop((writer, beside_a_writer));
        assert!(matches!(count(&database), Err(StoreError::Changed { .. })), "it was written");
    }
}
