//! NARs for the tests: trees that encode themselves, and archives put together token by token.

use std::collections::BTreeMap;

use nix_archive::nar::Encoder;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A file system object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    pub fn file(contents: impl Into<Vec<u8>>) -> Self {
        Self::File { executable: false, contents: contents.into() }
    }

    pub fn program(contents: impl Into<Vec<u8>>) -> Self {
        Self::File { executable: true, contents: contents.into() }
    }

    pub fn link(target: &str) -> Self {
        Self::Link(target.into())
    }

    pub fn directory<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Directory(entries.into_iter().map(|(name, tree)| (name.into(), tree)).collect())
    }

    /// Encodes the tree with another implementation than the one under test.
    pub fn to_nar(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new()).expect("memory can be written to");
        self.encode(&mut encoder, None);
        encoder.finish().expect("the tree is whole")
    }

    fn encode(&self, encoder: &mut Encoder<Vec<u8>>, name: Option<&[u8]>) {
        match self {
            Self::File { executable, contents } => encoder.regular(name, *executable, contents),
            Self::Link(target) => encoder.symlink(name, target),
            Self::Directory(entries) => {
                encoder.start_directory(name).expect("the name is good");
                for (name, tree) in entries {
                    tree.encode(encoder, Some(name));
                }
                encoder.end_directory()
            }
        }
        .expect("the tree is good");
    }
}

/// Any tree, up to five directories deep, with files made of `contents`.
pub fn any_tree(contents: impl Strategy<Value = Vec<u8>> + Clone + 'static) -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        3 => (any::<bool>(), contents).prop_map(|(executable, contents)| Tree::File { executable, contents }),
        1 => vec(1_u8.., 1..80).prop_map(Tree::Link),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| btree_map(any_name(), inner, 0..8).prop_map(Tree::Directory))
}

/// Any name an entry may have, mostly ones that sort closely.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let anything = vec(any::<u8>().prop_filter("no slash, no NUL", |byte| ![0, b'/'].contains(byte)), 1..20);
    prop_oneof![
        "[ab][-.a/]{0,2}".prop_map(|name| name.replace('/', "0").into_bytes()),
        anything.prop_filter("neither . nor ..", |name| name != b"." && name != b".."),
    ]
}

/// One token: length, bytes, padding.
pub fn token(bytes: &[u8]) -> Vec<u8> {
    let mut token = (bytes.len() as u64).to_le_bytes().to_vec();
    token.extend_from_slice(bytes);
    token.resize(token.len().next_multiple_of(8), 0);
    token
}

/// Several tokens, one behind the other.
pub fn tokens(list: &[&[u8]]) -> Vec<u8> {
    list.iter().flat_map(|bytes| token(bytes)).collect()
}

/// A directory whose entries are empty files of these names, in this order.
pub fn directory_of(names: &[&[u8]]) -> Vec<u8> {
    let mut nar = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for name in names {
        nar.extend(tokens(&[b"entry", b"(", b"name", name, b"node"]));
        nar.extend(tokens(&[b"(", b"type", b"regular", b"contents", b"", b")", b")"]));
    }
    nar.extend(token(b")"));
    nar
}

/// The entry of a directory that is an empty directory.
pub fn empty_directory(name: &[u8]) -> Vec<u8> {
    tokens(&[b"entry", b"(", b"name", name, b"node", b"(", b"type", b"directory", b")", b")"])
}

/// A symbolic link to `target`.
pub fn link_to(target: &[u8]) -> Vec<u8> {
    tokens(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target", target, b")"])
}

/// So many directories, each in the one before, and nothing in the last.
pub fn nested(directories: usize) -> Vec<u8> {
    let mut nar = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for _ in 1..directories {
        nar.extend(tokens(&[b"entry", b"(", b"name", b"d", b"node", b"(", b"type", b"directory"]));
    }
    for _ in 1..directories {
        nar.extend(tokens(&[b")", b")"]));
    }
    nar.extend(token(b")"));
    nar
}

/// The offsets of all padding bytes.
pub fn padding(nar: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < nar.len() {
        let length = u64::from_le_bytes(nar[at..at + 8].try_into().expect("eight bytes"));
        let end = at + 8 + usize::try_from(length).expect("a length that fits");
        at = end.next_multiple_of(8);
        found.extend(end..at);
    }
    found
}
