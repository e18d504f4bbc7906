//! The contents of a few files out of a NAR.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use nix_archive::nar::Event;

use super::entries::read_entries;
use crate::nar::NarError;

/// Most bytes of contents that are kept, all files together: enough for the text files that are compared, of which each has
/// at most 8 MiB.
const MAX_CONTENTS: u64 = 64 << 20;

/// Reads the contents of the regular files at these paths. Left out are files of more than `limit_each` bytes, those that
/// would make it more than 64 MiB all together with the ones before, and what is not a regular file.
///
/// # Errors
/// When the bytes are no NAR, pass a limit of [`Inventory::read`](crate::Inventory::read), or cannot be read.
pub fn read_files<R: Read>(
    reader: R,
    wanted: &BTreeSet<Vec<u8>>,
    limit_each: u64,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, NarError> {
    let mut files = BTreeMap::new();
    let mut left = MAX_CONTENTS;
    read_entries(reader, |path, event| {
        if let Event::Regular { mut contents, .. } = event
            && contents.size() <= limit_each.min(left)
            && wanted.contains(path)
        {
            left -= contents.size();
            let mut bytes = Vec::new();
            contents.copy_to(&mut bytes)?;
            files.insert(path.to_vec(), bytes);
        }
        Ok(())
    })?;
    Ok(files)
}
