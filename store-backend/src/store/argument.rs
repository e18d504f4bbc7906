//! Which store path a person means: a path, a link to one such as `result`, something inside one, or a base name.

use std::io;
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

/// Returns the store path that an argument means. Links are followed only as far as into the store directory, so the path
/// itself need not be on this machine.
///
/// # Errors
/// [`ArgumentError`].
///
/// Source: Nix `Store::followLinksToStorePath`.
pub fn store_path_of(argument: &str, store_dir: &StoreDir) -> Result<StorePath, ArgumentError> {
    let outside = || ArgumentError::Outside { argument: argument.to_owned(), store_dir: store_dir.clone() };
    if !argument.contains('/')
        && let Ok(path) = StorePath::from_basename(argument.as_bytes())
    {
        return Ok(path);
    }
    let mut place = std::path::absolute(argument).map_err(|_| outside())?;
    for _ in 0..=MAX_LINKS {
        if let Ok(inside) = place.strip_prefix(store_dir.as_str()) {
            return in_store(argument, inside, store_dir);
        }
        place = follow(&place).map_err(|_| outside())?.ok_or_else(outside)?;
    }
    Err(ArgumentError::TooManyLinks(argument.to_owned()))
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

/// Replaces the first link in a path by where it leads; none where there is no link.
fn follow(place: &Path) -> io::Result<Option<PathBuf>> {
    let mut before = PathBuf::new();
    let mut components = place.components();
    while let Some(component) = components.next() {
        if component == Component::ParentDir {
            before.pop();
            continue;
        }
        let here = before.join(component);
        if std::fs::symlink_metadata(&here)?.is_symlink() {
            let target = std::fs::read_link(&here)?;
            return Ok(Some(before.join(target).join(components.as_path())));
        }
        before = here;
    }
    Ok(None)
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
        let found = [
            full.clone(),
            format!("{full}/bin/hello"),
            NAME.to_owned(),
            at("result"),
            at("again"),
            at("folder/relative"),
            at("result/bin/hello"),
            format!("{}/{NAME}", at("store")),
        ];
        for argument in found {
            let path = store_path_of(&argument, &store_dir).map(|path| path.to_basename());
            assert_eq!(path.as_deref(), Ok(NAME), "{argument}");
        }
        let refused =
            [at("absent"), at("circle"), at("folder"), "/nix/store".into(), "/nix/store/hello".into(), "".into()];
        for argument in refused {
            assert!(store_path_of(&argument, &store_dir).is_err(), "{argument}");
        }
    }
}
