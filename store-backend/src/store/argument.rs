//! Which store path a person means: a path, a link to one such as `result`, something inside one, or a base name.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;
use verifier::{StoreDir, StorePath};

/// Links that are followed on the way to a store path; the kernel follows as many.
const MAX_LINKS: usize = 40;

/// Why an argument means no store path. Whoever typed it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArgumentError {
    /// It lies outside the store, and no link leads into it.
    #[error("{argument:?} is no path in {store_dir}, and no link to one")]
    Outside {
        /// What was typed.
        argument: String,
        /// The store directory.
        store_dir: StoreDir,
    },
    /// It lies in the store directory, but is no store path.
    #[error("{argument:?}: {found:?} is no store path: {why}")]
    NotAPath {
        /// What was typed.
        argument: String,
        /// What it led to.
        found: String,
        /// What is wrong with that.
        why: String,
    },
    /// There are too many links.
    #[error("{0:?}: it leads through more than {MAX_LINKS} links")]
    TooManyLinks(String),
}

/// Returns the store path that an argument means. Links are followed, and `..` leads upwards, as for the kernel. Within the store
/// directory and on the way to it nothing is looked at but the names, so the path itself need not be on this machine.
///
/// # Errors
/// [`ArgumentError`].
///
/// Source: Nix `Store::followLinksToStorePath`, which differs in `LINK/..`: there that is where the link is, here where it leads.
pub fn store_path_of(argument: &str, store_dir: &StoreDir) -> Result<StorePath, ArgumentError> {
    let outside = || ArgumentError::Outside { argument: argument.to_owned(), store_dir: store_dir.clone() };
    if !argument.contains('/')
        && let Ok(path) = StorePath::from_basename(argument.as_bytes())
    {
        return Ok(path);
    }
    let store = Path::new(store_dir.as_str());
    let (mut place, mut links) = (PathBuf::new(), 0);
    // What is still to be walked, the next name last.
    let mut ahead = Vec::new();
    walk_next(&mut ahead, &std::path::absolute(argument).map_err(|_| outside())?);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            place.pop();
            continue;
        }
        place.push(name);
        if place.starts_with(store) || store.starts_with(&place) {
            continue;
        }
        if std::fs::symlink_metadata(&place).map_err(|_| outside())?.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(ArgumentError::TooManyLinks(argument.to_owned()));
            }
            let target = std::fs::read_link(&place).map_err(|_| outside())?;
            place.pop();
            walk_next(&mut ahead, &target);
        }
    }
    in_store(argument, place.strip_prefix(store).map_err(|_| outside())?, store_dir)
}

fn walk_next(ahead: &mut Vec<OsString>, path: &Path) {
    ahead.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
}

fn in_store(argument: &str, inside: &Path, store_dir: &StoreDir) -> Result<StorePath, ArgumentError> {
    let name = match inside.components().next() {
        Some(Component::Normal(name)) => name.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    StorePath::from_basename(name.as_bytes()).map_err(|error| ArgumentError::NotAPath {
        argument: argument.to_owned(),
        found: format!("{store_dir}/{name}"),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NAME: &str = "00000000000000000000000000000000-hello";

    #[test]
    fn finds_the_path_that_is_meant() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let store_dir = StoreDir::default();
        let full = format!("/nix/store/{NAME}");
        symlink(&full, at("result")).expect("a link");
        symlink("result", at("again")).expect("a link");
        symlink("circle", at("circle")).expect("a link");
        symlink("/nix/store", at("store")).expect("a link");
        std::fs::create_dir(at("folder")).expect("a directory");
        symlink("../result", at("folder/relative")).expect("a link");
        symlink("folder", at("elsewhere")).expect("a link");
        let up = "../".repeat(folder.path().components().count());
        symlink(format!("{up}{full}"), at("upwards")).expect("a link");
        let other = "/nix/store/11111111111111111111111111111111-other";
        symlink(format!("{other}/../{NAME}"), at("beside")).expect("a link");
        let found = [
            full.clone(),
            format!("{full}/bin/hello"),
            NAME.to_owned(),
            at("result"),
            at("again"),
            at("folder/relative"),
            at("result/bin/hello"),
            format!("{}/{NAME}", at("store")),
            format!("{other}/../{NAME}"),
            format!("{other}/bin/../.././{NAME}/bin/.."),
            format!("{other}/../../../{}", at("result")),
            format!("{}/../{NAME}", at("store/within")),
            at("elsewhere/../result"),
            at("upwards"),
            at("beside"),
        ];
        for argument in found {
            let path = store_path_of(&argument, &store_dir).map(|path| path.to_basename());
            assert_eq!(path.as_deref(), Ok(NAME), "{argument}");
        }
        let refused = [
            at("absent"),
            at("circle"),
            at("folder"),
            "/nix/store".into(),
            "/nix/store/hello".into(),
            "".into(),
            format!("{full}/.."),
            format!("{full}/../.."),
            format!("{full}/../../{NAME}"),
        ];
        for argument in refused {
            assert!(store_path_of(&argument, &store_dir).is_err(), "{argument}");
        }
    }
}
