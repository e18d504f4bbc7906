//! A store on this machine, read without its daemon: what Nix knows is in a SQLite database, and contents are files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::task::spawn_blocking;
use verifier::{ContentAddress, NarHash, OutputId, PathInfo, StoreDir, StorePath};

use super::StoreError;
use super::database::{AnswerError, DATABASE, Database};
use super::derivation::outputs;
use super::directories;
use super::reading::{Listed, Nar, Outputs, Pace, Statement, Statements, Store};
use crate::object::ObjectError;

/// Most references and signatures that are said of the paths of one question. The 256 paths of the largest closures have some ten
/// thousand; a row can say hundreds of thousands.
const MOST_SAID: usize = 1_000_000;

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
        self.state.clone().unwrap_or(own).join(DATABASE)
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

    fn contents(&self, store_dir: &StoreDir) -> PathBuf {
        self.real.clone().unwrap_or_else(|| self.under_root(store_dir.as_str()))
    }

    /// Returns where the contents are, if no link leads out of the root there.
    pub(super) fn contents_within(&self, store_dir: &StoreDir) -> Result<PathBuf, StoreError> {
        let contents = self.contents(store_dir);
        self.leads_nowhere_else(&contents)?;
        Ok(contents)
    }
}

/// A store on this machine.
pub struct LocalStore {
    store_dir: StoreDir,
    contents: PathBuf,
    database: Arc<Database>,
}

impl LocalStore {
    /// Opens a store to read. Nothing is made or changed.
    ///
    /// # Errors
    /// When there is no database, or it cannot be read.
    pub async fn open(local: &Local, store_dir: &StoreDir) -> Result<Self, StoreError> {
        let (place, contents) = (local.database(), local.contents_within(store_dir)?);
        local.leads_nowhere_else(&place)?;
        let database = spawn_blocking(move || Database::open(place)).await.map_err(ObjectError::from)??;
        Ok(Self { store_dir: store_dir.clone(), contents, database: Arc::new(database) })
    }

    /// Asks the database, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection, &StoreDir) -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (database, store_dir) = (self.database.clone(), self.store_dir.clone());
        let asked = spawn_blocking(move || database.ask(|connection| question(connection, &store_dir)));
        asked.await.map_err(ObjectError::from)?
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
fn info(
    connection: &Connection,
    store_dir: &StoreDir,
    path: StorePath,
    room: &mut usize,
) -> Result<Option<PathInfo>, AnswerError> {
    let mut take = |count: usize| {
        let too_much = || {
            AnswerError::Nonsense(format!(
                "there are more than {MOST_SAID} references and signatures at {}",
                store_dir.render_path(&path)
            ))
        };
        *room = room.checked_sub(count).ok_or_else(too_much)?;
        Ok::<_, AnswerError>(())
    };
    let mut find = connection.prepare_cached(
        "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca from ValidPaths where path = ?1",
    )?;
    let Some(known) = find.query_row(params![store_dir.render_path(&path)], Known::of).optional()? else {
        return Ok(None);
    };
    take(known.signatures.iter().flat_map(|text| text.split_whitespace()).count())?;
    let mut list =
        connection.prepare_cached("select path from Refs join ValidPaths on reference = id where referrer = ?1")?;
    let mut references = BTreeSet::new();
    let mut rows = list.query(params![known.id])?;
    while let Some(row) = rows.next()? {
        take(1)?;
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
        Pace { at_once: 1, paths: 256, contents: Pace::CONTENTS }
    }

    async fn statements(&self, paths: Vec<StorePath>) -> Statements {
        let (database, first) = (self.database.clone(), paths.first().cloned());
        let asked = self.ask(move |connection, store_dir| {
            let mut room = MOST_SAID;
            let statement = |path: StorePath| match info(connection, store_dir, path.clone(), &mut room) {
                Ok(info) => (path, Ok(info.map(Statement::of))),
                Err(error) => (path, Err(database.failed(error))),
            };
            Ok(paths.into_iter().map(statement).collect())
        });
        // Where nothing was answered, one path says why.
        asked.await.unwrap_or_else(|error| first.map(|path| (path, Err(error))).into_iter().collect())
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

    /// Source: Nix `src/libstore/ca-specific-schema.sql`, up to 2.34 and later.
    async fn realised(&self, id: &OutputId) -> Result<Option<StorePath>, StoreError> {
        let (table, find, derivation, output) = match id {
            OutputId::Hash { drv_hash, output } => {
                let find = "select path from Realisations join ValidPaths on ValidPaths.id = outputPath \
                            where drvPath = ?1 and outputName = ?2";
                ("Realisations", find, drv_hash.clone(), output.clone())
            }
            OutputId::Path { drv_path, output } => {
                let find = "select outputPath from BuildTraceV3 where drvPath = ?1 and outputName = ?2";
                ("BuildTraceV3", find, drv_path.to_basename(), output.clone())
            }
        };
        self.ask(move |connection, store_dir| {
            // Nix makes the table where somebody has enabled derivations of the kind.
            let is_there = "select 1 from sqlite_master where type = 'table' and name = ?1";
            if !connection.prepare_cached(is_there)?.exists([table])? {
                return Ok(None);
            }
            let mut find = connection.prepare_cached(find)?;
            let found = find.query_row(params![derivation, output], |row| row.get::<_, String>(0)).optional()?;
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

#[cfg(test)]
mod tests {
    use super::super::database::tests::{SCHEMA, make};
    use super::*;

    const PATH: &str = "/nix/store/0l2ha1850l2ha1850l2ha1850l2ha185-a";

    fn path(text: &str) -> StorePath {
        StoreDir::default().parse_path(text.as_bytes()).expect("a path")
    }

    /// Opens a store whose database some statements have made.
    async fn opened(root: &Path, sql: &str) -> LocalStore {
        make(root, &format!("{SCHEMA}{sql}"));
        let local = Local { root: Some(root.into()), ..Local::default() };
        LocalStore::open(&local, &StoreDir::default()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Inserts valid paths. The signatures are an expression.
    fn valid(id: usize, path: &str, signatures: &str) -> String {
        let hash = "0".repeat(64);
        format!(
            "insert into ValidPaths (id, path, hash, registrationTime, narSize, sigs) \
             values ({id}, '{path}', 'sha256:{hash}', 1, 120, {signatures});"
        )
    }

    #[tokio::test]
    async fn nothing_is_said_without_end() {
        let folder = tempfile::tempdir().expect("a directory");
        let paths: Vec<String> = ('a'..='e').map(|name| format!("{}{name}", &PATH[..PATH.len() - 1])).collect();
        let many = "replace(hex(zeroblob(400000)), '00', 'x ')";
        let sql: String = [
            valid(1, &paths[0], "'a b'"),
            valid(2, &paths[1], "hex(zeroblob(1000000))"),
            valid(3, &paths[2], many),
            valid(4, &paths[3], many),
            valid(5, &paths[4], many),
            "insert into Refs values (1, 1), (1, 2);".into(),
        ]
        .concat();
        let store = opened(folder.path(), &sql).await;
        let answers = store.statements(paths.iter().map(|text| path(text)).collect()).await;
        let said: Vec<Result<usize, String>> = answers
            .into_iter()
            .map(|(_, answer)| match answer {
                Ok(statement) => Ok(statement.map_or(0, |found| found.signatures.len() + found.info.references.len())),
                Err(error) => Err(error.to_string()),
            })
            .collect();
        // The long ones say the same signature time and again.
        assert_eq!((&said[0], &said[2], &said[3]), (&Ok(4), &Ok(1), &Ok(1)));
        for (at, says) in [(1, "too big"), (4, "more than 1000000 references and signatures")] {
            let error = said[at].as_ref().expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_link_does_not_lead_out_of_a_root() {
        let folder = tempfile::tempdir().expect("a directory");
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("nix")).expect("room for directories");
        std::os::unix::fs::symlink("/tmp", root.join("nix/store")).expect("room for a link");
        let root = root.display();
        for uri in [format!("local?root={root}"), format!("unix://{root}/socket?root={root}")] {
            let opened = super::super::StoreUri::parse(&uri).expect("a store").open(None).await;
            let error = opened.map(|_| ()).expect_err("it is a link").to_string();
            assert!(error.contains("may lead out of the root"), "{uri}: {error}");
        }
    }

    #[tokio::test]
    async fn outputs_are_where_either_table_says() {
        let folder = tempfile::tempdir().expect("a directory");
        let hash = "1".repeat(64);
        let derivation = "0l2ha1850l2ha1850l2ha1850l2ha185-a.drv";
        let other = "/nix/store/1l2ha1850l2ha1850l2ha1850l2ha185-b";
        let sql = format!(
            "create table Realisations (id integer primary key autoincrement not null, drvPath text not null, \
             outputName text not null, outputPath integer not null, signatures text);
             create table BuildTraceV3 (id integer primary key autoincrement not null, drvPath text not null, \
             outputName text not null, outputPath text not null, signatures text);
             insert into Realisations (drvPath, outputName, outputPath) values ('sha256:{hash}', 'out', 1);
             insert into BuildTraceV3 (drvPath, outputName, outputPath) values ('{derivation}', 'out', '{other}');
             insert into BuildTraceV3 (drvPath, outputName, outputPath) values ('{derivation}', 'bad', 'nowhere');"
        );
        let store = opened(folder.path(), &(valid(1, PATH, "null") + &sql)).await;
        let by_hash = |output: &str| OutputId::parse_hash(&format!("sha256:{hash}!{output}")).expect("a name");
        let drv_path = path(&format!("/nix/store/{derivation}"));
        let by_path = |output: &str| OutputId::of_path(drv_path.clone(), output).expect("a name");
        for (id, expected) in [
            (by_hash("out"), Some(PATH)),
            (by_hash("dev"), None),
            (by_path("out"), Some(other)),
            (by_path("dev"), None),
        ] {
            let found = store.realised(&id).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found, expected.map(path), "{id}");
        }
        let error = store.realised(&by_path("bad")).await.expect_err("it is no path").to_string();
        assert!(error.contains("nowhere"), "{error}");
        let without = tempfile::tempdir().expect("a directory");
        let store = opened(without.path(), "").await;
        for id in [by_hash("out"), by_path("out")] {
            assert_eq!(store.realised(&id).await.ok(), Some(None), "there is no table");
        }
    }
}
