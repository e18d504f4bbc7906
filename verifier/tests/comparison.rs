//! The comparison of NARs: what only one of them has, in what the others differ.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::cases;
use support::nar::{Tree, any_tree, directory_of, empty_directory, link_to, nested, token, tokens};
use support::reader::{Broken, Dribble, Wide};
use verifier::{Aspect, Change, Difference, Inventory, NarEntry, NarError, compare, digest_nar, read_files};

fn inventory(tree: &Tree) -> Inventory {
    Inventory::read(&tree.to_nar()[..]).expect("a good archive")
}

/// What is there, in short: `d2` a directory with two entries below it, `f5` or `x5` a file of five bytes, `l` a link.
fn short(entry: &NarEntry) -> String {
    match entry {
        NarEntry::Directory { entries } => format!("d{entries}"),
        NarEntry::Regular { executable, size, .. } => format!("{}{size}", if *executable { "x" } else { "f" }),
        NarEntry::Symlink { target } => format!("l{}", target.escape_ascii()),
    }
}

/// A difference as one line.
fn line(difference: &Difference<'_>) -> String {
    let path = difference.path.escape_ascii();
    match &difference.change {
        Change::OnlyInFirst(entry) => format!("-{path} {}", short(entry)),
        Change::OnlyInSecond(entry) => format!("+{path} {}", short(entry)),
        Change::InBoth { first, second, aspects } => format!("{path} {} {} {aspects:?}", short(first), short(second)),
    }
}

fn differences(first: &Tree, second: &Tree) -> Vec<String> {
    compare(&inventory(first), &inventory(second)).iter().map(line).collect()
}

// Inventories.

#[test]
fn an_inventory_has_every_entry_in_the_order_of_the_nar() {
    let tree = Tree::directory([
        ("a", Tree::directory([("b", Tree::directory([])), ("c", Tree::program("run"))])),
        ("a-b", Tree::link("a")),
        ("d", Tree::file("hello")),
    ]);
    let regular = |executable, contents: &str| NarEntry::Regular {
        executable,
        size: contents.len() as u64,
        sha256: Sha256::digest(contents).into(),
    };
    let inventory = inventory(&tree);
    let entries: Vec<_> = inventory.entries().map(|(path, entry)| (path, entry.clone())).collect();
    let expected: [(&[u8], NarEntry); 6] = [
        (b"", NarEntry::Directory { entries: 5 }),
        (b"a", NarEntry::Directory { entries: 2 }),
        (b"a/b", NarEntry::Directory { entries: 0 }),
        (b"a/c", regular(true, "run")),
        (b"a-b", NarEntry::Symlink { target: b"a".into() }),
        (b"d", regular(false, "hello")),
    ];
    assert_eq!(entries, expected);
}

#[test]
fn the_root_has_an_empty_path() {
    for (tree, root) in [
        (Tree::file("four"), "f4"),
        (Tree::program(""), "x0"),
        (Tree::link("target"), "ltarget"),
        (Tree::directory([]), "d0"),
    ] {
        let inventory = inventory(&tree);
        let entries: Vec<_> = inventory.entries().map(|(path, entry)| (path, short(entry))).collect();
        assert_eq!(entries, [(&b""[..], root.to_owned())]);
    }
}

#[test]
fn an_archive_that_was_cut_off_has_no_inventory_and_no_files() {
    let tree =
        Tree::directory([("bin", Tree::directory([("run", Tree::program("#!/bin/sh\n"))])), ("l", Tree::link("x"))]);
    let nar = tree.to_nar();
    let wanted = BTreeSet::from([b"bin/run".to_vec()]);
    for end in 0..nar.len() {
        let result = Inventory::read(&nar[..end]);
        assert!(matches!(result, Err(NarError::Malformed { .. })), "cut at {end}: {result:?}");
        let result = read_files(&nar[..end], &wanted, 100);
        assert!(matches!(result, Err(NarError::Malformed { .. })), "cut at {end}: {result:?}");
        let result = Inventory::read(Broken(&nar[..end]));
        assert!(matches!(result, Err(NarError::Read { .. })), "broken at {end}: {result:?}");
    }
    match Inventory::read(&nar[..100]) {
        Err(NarError::Malformed { offset, .. }) => assert!((88..=100).contains(&offset), "{offset}"),
        other => panic!("{other:?}"),
    }
}

/// What [`digest_nar`] refuses has no inventory either.
#[test]
fn what_is_no_nar_is_refused() {
    let magic = b"nix-archive-1".as_slice();
    for (case, nar) in [
        ("nothing", Vec::new()),
        ("two archives", [directory_of(&[]), directory_of(&[])].concat()),
        ("names out of order", directory_of(&[b"b", b"a"])),
        ("a name twice", directory_of(&[b"a", b"a"])),
        ("a name with a slash", directory_of(&[b"a/b"])),
        ("the parent's name", directory_of(&[b".."])),
        ("a long name", directory_of(&[&[b'n'; 256]])),
        ("a long target", link_to(&[b't'; 4096])),
        ("an empty target", link_to(b"")),
        ("a target with a NUL", link_to(b"a\0b")),
        ("deep nesting", nested(65)),
        ("very deep nesting", nested(100_000)),
        ("contents of 16 EiB", [&tokens(&[magic, b"(", b"type", b"regular", b"contents"])[..], &[0xff; 8]].concat()),
        (
            "a name of 16 EiB",
            [&tokens(&[magic, b"(", b"type", b"directory", b"entry", b"(", b"name"])[..], &[0xff; 8]].concat(),
        ),
    ] {
        let result = Inventory::read(&nar[..]);
        assert!(matches!(result, Err(NarError::Malformed { .. })), "{case}: {result:?}");
        assert!(digest_nar(&nar[..], None).is_err(), "{case}");
    }
    assert_eq!(Inventory::read(&nested(64)[..]).expect("as deep as in Nix").entries().len(), 64);
}

#[test]
fn a_reader_that_is_interrupted_and_slow_changes_nothing() {
    let tree = Tree::directory([("a", Tree::file("hello")), ("b", Tree::directory([("c", Tree::link("d"))]))]);
    let (nar, expected) = (tree.to_nar(), inventory(&tree));
    for sizes in [&[1][..], &[7], &[3, 1, 200], &[8]] {
        assert_eq!(Inventory::read(Dribble::new(&nar, sizes)).expect("a good archive"), expected, "{sizes:?}");
    }
}

// Limits.

#[test]
fn an_archive_of_more_than_a_million_entries_is_not_compared() {
    let mut wide = Wide::new(1_500_000);
    let result = Inventory::read(&mut wide);
    assert!(matches!(result, Err(NarError::TooManyToCompare)), "{:?}", result.map(|_| ()));
    assert!((497_000..=500_002).contains(&wide.left), "{} entries were not asked for", wide.left);
    let result = read_files(Wide::new(1_000_000), &BTreeSet::new(), 0);
    assert!(matches!(result, Err(NarError::TooManyToCompare)), "{result:?}");
    // The root is an entry as well.
    assert_eq!(Inventory::read(Wide::new(999_999)).expect("few enough").entries().len(), 1_000_000);
}

/// Empty directories with names of four digits, below so many directories with the longest names.
fn deep(directories: usize, entries: usize) -> Vec<u8> {
    let mut nar = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for _ in 0..directories {
        nar.extend(tokens(&[b"entry", b"(", b"name", &[b'd'; 255], b"node", b"(", b"type", b"directory"]));
    }
    for number in 0..entries {
        nar.extend(empty_directory(format!("{number:05}").as_bytes()));
    }
    (0..directories).for_each(|_| nar.extend(tokens(&[b")", b")"])));
    nar.extend(token(b")"));
    nar
}

/// Paths are kept in full, so nesting makes a small NAR large in memory.
#[test]
fn an_archive_of_more_than_256_mib_of_paths_is_not_compared() {
    let parent = 62 * 256 - 1;
    let parents: usize = (1..=62).map(|depth| depth * 256 - 1).sum();
    let fits = ((256 << 20) - parents) / (parent + 6);
    let result = read_files(&deep(62, fits)[..], &BTreeSet::new(), 0);
    assert!(result.is_ok(), "{result:?}");
    for result in [
        read_files(&deep(62, fits + 1)[..], &BTreeSet::new(), 0).map(|_| ()),
        Inventory::read(&deep(62, fits + 1)[..]).map(|_| ()),
    ] {
        assert!(matches!(result, Err(NarError::PathsTooLong)), "{result:?}");
    }
}

#[test]
fn the_targets_of_links_count_like_paths() {
    let target = [b't'; 4095];
    let mut nar = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for number in 0..=(256 << 20) / (4095 + 5) {
        let name = format!("{number:05}");
        nar.extend(tokens(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]));
        nar.extend(tokens(&[b"(", b"type", b"symlink", b"target", &target, b")", b")"]));
    }
    nar.extend(token(b")"));
    let result = read_files(&nar[..], &BTreeSet::new(), 0);
    assert!(matches!(result, Err(NarError::PathsTooLong)), "{result:?}");
}

#[test]
fn a_refusal_says_what_can_be_done() {
    let text = NarError::TooManyToCompare.to_string();
    assert_eq!(
        text,
        "this NAR has more than 1000000 entries, too many to be compared; unpack both and compare the directories"
    );
    let text = NarError::PathsTooLong.to_string();
    assert_eq!(
        text,
        "the paths and link targets of this NAR have more than 268435456 bytes, too many to be compared; unpack both and \
         compare the directories"
    );
}

// Comparison.

#[test]
fn each_difference_is_named() {
    let one = |tree| Tree::directory([("a", tree)]);
    let tree = || Tree::directory([("b", Tree::directory([("c", Tree::file(""))])), ("d", Tree::link("b"))]);
    let table: &[(&str, Tree, Tree, &[&str])] = &[
        ("equal files", Tree::file("same"), Tree::file("same"), &[]),
        ("equal trees", one(tree()), one(tree()), &[]),
        ("other contents of the same size", one(Tree::file("old")), one(Tree::file("new")), &["a f3 f3 [Contents]"]),
        ("another size", one(Tree::file("old")), one(Tree::file("longer")), &["a f3 f6 [Size, Contents]"]),
        ("executable", one(Tree::file("same")), one(Tree::program("same")), &["a f4 x4 [Executable]"]),
        ("all of a file", one(Tree::file("a")), one(Tree::program("bc")), &["a f1 x2 [Executable, Size, Contents]"]),
        ("a link's target", one(Tree::link("b")), one(Tree::link("c")), &["a lb lc [Target]"]),
        ("a file for a link", one(Tree::link("b")), one(Tree::file("b")), &["a lb f1 [Type]"]),
        ("a tree for a file", one(Tree::file("b")), one(tree()), &["a f1 d3 [Type]"]),
        ("a link for a tree", one(tree()), one(Tree::link("b")), &["a d3 lb [Type]"]),
        ("a file in one", one(Tree::file("b")), Tree::directory([]), &["-a f1"]),
        ("an empty directory in one", Tree::directory([]), one(Tree::directory([])), &["+a d0"]),
        ("a tree in one, once", one(tree()), Tree::directory([]), &["-a d3"]),
        ("a tree below one, once", one(Tree::directory([])), one(tree()), &["+a/b d1", "+a/d lb"]),
        ("a root that is a file", Tree::file("root"), one(tree()), &[" f4 d4 [Type]"]),
        ("roots that are links", Tree::link("b"), Tree::link("c"), &[" lb lc [Target]"]),
        ("roots that are files", Tree::file("b"), Tree::program("b"), &[" f1 x1 [Executable]"]),
    ];
    for (case, first, second, expected) in table {
        assert_eq!(differences(first, second), *expected, "{case}");
    }
}

/// `a-b` and `a.b` sort before `a/b` as strings of bytes, and stand behind it in a NAR.
#[test]
fn differences_stand_in_the_order_of_the_nar() {
    let first = Tree::directory([
        ("a", Tree::directory([("x", Tree::file("")), ("z", Tree::file("1"))])),
        ("a-b", Tree::file("")),
        ("a0", Tree::directory([("x", Tree::file(""))])),
    ]);
    let second = Tree::directory([
        ("a", Tree::directory([("y", Tree::file("")), ("z", Tree::file("2"))])),
        ("a.b", Tree::file("")),
        ("a0", Tree::directory([("x", Tree::file("")), ("x0", Tree::file(""))])),
    ]);
    let expected = ["-a/x f0", "+a/y f0", "a/z f1 f1 [Contents]", "-a-b f0", "+a.b f0", "+a0/x0 f0"];
    assert_eq!(differences(&first, &second), expected);
}

#[test]
fn an_aspect_is_a_word_in_json() {
    let aspects = [Aspect::Type, Aspect::Executable, Aspect::Size, Aspect::Contents, Aspect::Target];
    let json = serde_json::to_string(&aspects).expect("words");
    assert_eq!(json, r#"["type","executable","size","contents","target"]"#);
}

// Contents.

#[test]
fn files_that_are_wanted_and_small_enough_are_read() {
    let tree = Tree::directory([
        ("a", Tree::directory([("text", Tree::file("12345")), ("unwanted", Tree::file("1"))])),
        ("empty", Tree::program("")),
        ("large", Tree::file("123456")),
        ("link", Tree::link("a")),
    ]);
    let wanted = ["a", "a/text", "empty", "large", "link", "missing", ""].map(|path| path.as_bytes().to_vec());
    let files = read_files(&tree.to_nar()[..], &wanted.into(), 5).expect("a good archive");
    let expected = BTreeMap::from([(b"a/text".to_vec(), b"12345".to_vec()), (b"empty".to_vec(), Vec::new())]);
    assert_eq!(files, expected);
    let files = read_files(&Tree::file("root").to_nar()[..], &BTreeSet::from([Vec::new()]), u64::MAX);
    assert_eq!(files.expect("a good archive"), BTreeMap::from([(Vec::new(), b"root".to_vec())]));
}

#[test]
fn files_beyond_64_mib_in_all_are_left_out() {
    let mib = |count: usize| Tree::file(vec![b'x'; count << 20]);
    let tree = Tree::directory([
        ("a", mib(40)),
        ("b", mib(25)),
        ("c", mib(24)),
        ("d", Tree::file("x")),
        ("e", Tree::file("")),
    ]);
    let wanted = ["a", "b", "c", "d", "e"].map(|path| path.as_bytes().to_vec());
    let files = read_files(&tree.to_nar()[..], &wanted.into(), u64::MAX).expect("a good archive");
    let sizes: Vec<_> = files.iter().map(|(path, contents)| (&path[..], contents.len())).collect();
    assert_eq!(sizes, [(&b"a"[..], 40 << 20), (b"c", 24 << 20), (b"e", 0)]);
}

/// Memory is taken for bytes that came and not for ones that were announced.
#[test]
fn contents_that_claim_to_be_huge_are_not_waited_for() {
    for length in [1_u64 << 25, 1 << 40, u64::MAX] {
        let head = tokens(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
        let nar = [&head[..], &length.to_le_bytes(), b"contents"].concat();
        let result = read_files(&nar[..], &BTreeSet::from([Vec::new()]), u64::MAX);
        assert!(matches!(result, Err(NarError::Malformed { .. })), "{length}: {result:?}");
    }
}

// Any trees.

/// Each path of a tree as its names, and what is there without what is below.
fn flat(tree: &Tree) -> BTreeMap<Vec<Vec<u8>>, Tree> {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![(Vec::new(), tree.clone())];
    while let Some((path, tree)) = waiting.pop() {
        let Tree::Directory(below) = tree else {
            entries.insert(path, tree);
            continue;
        };
        entries.insert(path.clone(), Tree::directory([]));
        waiting.extend(below.into_iter().map(|(name, tree)| ([&path[..], &[name]].concat(), tree)));
    }
    entries
}

/// Compares two trees path by path: where they differ, and no further below where one has no directory.
fn expected_paths(first: &Tree, second: &Tree) -> Vec<Vec<u8>> {
    let (first, second) = (flat(first), flat(second));
    let paths: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    let is_directory = |tree: Option<&Tree>| matches!(tree, Some(Tree::Directory(_)));
    let in_both = |path: &[Vec<u8>]| is_directory(first.get(path)) && is_directory(second.get(path));
    let differs = |path: &[Vec<u8>]| first.get(path) != second.get(path);
    let is_top = |path: &[Vec<u8>]| (0..path.len()).all(|depth| in_both(&path[..depth]));
    paths.into_iter().filter(|path| differs(path) && is_top(path)).map(|path| path.join(&b'/')).collect()
}

/// The same differences with the sides exchanged.
fn mirrored(mut differences: Vec<Difference<'_>>) -> Vec<Difference<'_>> {
    for difference in &mut differences {
        difference.change = match difference.change.clone() {
            Change::OnlyInFirst(entry) => Change::OnlyInSecond(entry),
            Change::OnlyInSecond(entry) => Change::OnlyInFirst(entry),
            Change::InBoth { first, second, aspects } => Change::InBoth { first: second, second: first, aspects },
        };
    }
    differences
}

fn few_contents() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(0..3_u8, 0..3)
}

/// Two directories with much in common.
fn two_trees() -> impl Strategy<Value = (Tree, Tree)> {
    let entries =
        prop::collection::btree_map("[ab][-.0]?", (any_tree(few_contents()), any_tree(few_contents()), 0..6), 0..6);
    entries.prop_map(|entries| {
        let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
        for (name, (one, other, choice)) in entries {
            let (one, other) = (Some(one), Some(other));
            let (in_first, in_second) = match choice {
                0 => (one, None),
                1 => (None, other),
                2 => (one, other),
                _ => (one.clone(), one),
            };
            in_first.map(|tree| first.insert(name.clone().into_bytes(), tree));
            in_second.map(|tree| second.insert(name.into_bytes(), tree));
        }
        (Tree::Directory(first), Tree::Directory(second))
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_nar_is_equal_to_itself(tree in any_tree(few_contents())) {
        let inventory = inventory(&tree);
        prop_assert_eq!(inventory.entries().len(), flat(&tree).len());
        prop_assert_eq!(compare(&inventory, &inventory), vec![]);
    }

    #[test]
    fn the_differences_are_all_there_are((first, second) in two_trees()) {
        let (a, b) = (inventory(&first), inventory(&second));
        let differences = compare(&a, &b);
        let paths: Vec<_> = differences.iter().map(|difference| difference.path.to_vec()).collect();
        prop_assert_eq!(paths, expected_paths(&first, &second));
        prop_assert_eq!(mirrored(differences), compare(&b, &a));
    }

    #[test]
    fn any_two_trees_compare_both_ways(first in any_tree(few_contents()), second in any_tree(few_contents())) {
        let (a, b) = (inventory(&first), inventory(&second));
        let differences = compare(&a, &b);
        prop_assert_eq!(differences.is_empty(), first == second);
        prop_assert_eq!(mirrored(differences), compare(&b, &a));
    }

    #[test]
    fn all_files_of_a_tree_can_be_read(tree in any_tree(few_contents())) {
        let nar = tree.to_nar();
        let paths = flat(&tree).into_keys().map(|path| path.join(&b'/')).collect();
        let files = read_files(&nar[..], &paths, 100).expect("a good archive");
        let expected = flat(&tree).into_iter().filter_map(|(path, tree)| match tree {
            Tree::File { contents, .. } => Some((path.join(&b'/'), contents)),
            _ => None,
        });
        prop_assert_eq!(files, expected.collect());
    }

    #[test]
    fn damage_never_makes_reading_panic(
        tree in any_tree(few_contents()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bad = tree.to_nar();
        let length = bad.len();
        for (index, byte) in damage {
            bad[index.index(length)] = byte;
        }
        let readable = digest_nar(&bad[..], None).is_ok();
        prop_assert_eq!(Inventory::read(&bad[..]).is_ok(), readable);
    }
}
