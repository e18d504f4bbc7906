//! What every object store owes, whatever it keeps its objects in. The checks know [`ObjectStore`] alone: a further backend
//! is put through them by naming it in the `contract!` at the end.

mod support;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use store_backend::object::{
    Bucket, Condition, Credentials, Directory, Draft, Etag, Expected, Key, Location, ObjectError, ObjectStore, Pages,
    Patience, Put, Upload, Writers,
};
use support::child::{self, Worker};
use support::package::noise;
use support::s3::{S3, garage, moto, s3s_fs};
use support::site::files;
use tempfile::TempDir;
use verifier::Timestamp;

type Store = Arc<dyn ObjectStore>;

/// Where the objects of one test are. Each `open` is another process's view, as far as one process can have it.
#[async_trait]
trait Place {
    async fn open(&self) -> Store;
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

async fn put(store: &Store, name: &str, condition: Condition, bytes: impl Into<Bytes>) -> Put {
    let mut puts = store.publish(vec![Draft::of_bytes(key(name), condition, bytes)]).await.expect("it can be written");
    assert_eq!(puts.len(), 1);
    puts.remove(0)
}

async fn create(store: &Store, name: &str, bytes: impl Into<Bytes>) -> Etag {
    match put(store, name, Condition::Absent, bytes).await {
        Put::Stored(etag) => etag,
        Put::Refused => panic!("{name} is there already"),
    }
}

async fn content(store: &Store, name: &str) -> Option<Bytes> {
    store.get(&key(name), 1 << 30).await.expect("it can be read").map(|object| object.bytes)
}

async fn read_from(store: &Store, name: &str, from: u64) -> Vec<u8> {
    let (_, mut reader) = store.open(&key(name), from).await.expect("it can be read").expect("it is there");
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    })
    .await
    .expect("it ends")
    .expect("it can be read")
}

async fn all(mut pages: Pages) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(page) = pages.next().await.expect("it can be listed") {
        names.extend(page.into_iter().map(|entry| entry.name));
    }
    names
}

async fn names(store: &Store, folder: &str) -> BTreeSet<String> {
    let names = all(store.list(folder).await.expect("it can be listed")).await;
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "nothing is listed twice");
    set
}

async fn upload(store: &Store, pieces: &[&[u8]]) -> Box<dyn Upload> {
    let mut upload = store.upload(Expected::default()).await.expect("there is room");
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    tokio::task::spawn_blocking(move || {
        for piece in pieces {
            upload.write(&piece).expect("there is room");
        }
        upload.finish().expect("there is room");
        upload
    })
    .await
    .expect("it ends")
}

// The checks.

async fn what_is_not_there_is_none(place: &dyn Place) {
    let store = place.open().await;
    for name in ["missing", "missing/too", "a/b/c/d"] {
        assert!(store.get(&key(name), 10).await.expect("no error").is_none());
        assert!(store.head(&key(name)).await.expect("no error").is_none());
        assert!(store.open(&key(name), 0).await.expect("no error").is_none());
    }
    assert!(names(&store, "missing/").await.is_empty());
    assert!(store.list_folders("missing/").await.expect("no error").is_empty());
    let etag = create(&store, "present", "x").await;
    assert!(!store.delete(&key("missing"), &etag).await.expect("no error"));
    assert_eq!(put(&store, "missing", Condition::Matches(etag), "y").await, Put::Refused);
    assert_eq!(content(&store, "missing").await, None);
}

async fn what_was_put_is_read_back_by_everybody(place: &dyn Place) {
    let (store, other) = (place.open().await, place.open().await);
    for (number, size) in [0, 1, 7, 4096, (128 << 10) - 1, 1 << 20, 4 << 20, (21 << 20) + 1].into_iter().enumerate() {
        let bytes = noise(number as u64, size);
        let name = format!("folder/{number}");
        let etag = create(&store, &name, bytes.clone()).await;
        let object = other.get(&key(&name), size as u64).await.expect("within the limit").expect("it is there");
        assert_eq!((&object.bytes[..], &object.version.etag), (&bytes[..], &etag));
        let metadata = other.head(&key(&name)).await.expect("no error").expect("it is there");
        assert_eq!((metadata.size, &metadata.version.etag), (size as u64, &etag));
        let (metadata, _) = other.open(&key(&name), 0).await.expect("no error").expect("it is there");
        assert_eq!((metadata.size, &metadata.version.etag), (size as u64, &etag));
        for from in [0, size / 3, size] {
            assert!(read_from(&other, &name, from as u64).await == bytes[from..], "{size} bytes from {from}");
        }
    }
}

async fn what_is_longer_than_the_limit_is_not_read(place: &dyn Place) {
    let store = place.open().await;
    create(&store, "ten", "0123456789").await;
    assert!(store.get(&key("ten"), 10).await.expect("at the limit").is_some());
    match store.get(&key("ten"), 9).await {
        Err(ObjectError::TooLong { key, size: 10, limit: 9 }) => assert_eq!(key.as_str(), "ten"),
        other => panic!("{other:?}"),
    }
}

async fn an_object_is_read_from_any_byte_on(place: &dyn Place) {
    let store = place.open().await;
    let bytes = noise(1, 300_000);
    create(&store, "object", bytes.clone()).await;
    for from in [0, 1, 4095, 4096, 299_999] {
        assert_eq!(read_from(&store, "object", from as u64).await, &bytes[from..]);
    }
    for from in [300_000, 300_001, 1 << 40] {
        assert_eq!(read_from(&store, "object", from).await, [0; 0], "there is nothing behind the end");
    }
}

async fn one_of_sixteen_creates_an_object(place: &dyn Place) {
    for round in 0..6 {
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..16_u8 {
            let store = place.open().await;
            let bytes = vec![number; 1000];
            let round = format!("round/{round}");
            writers.spawn(async move { (number, put(&store, &round, Condition::Absent, bytes).await) });
        }
        let mut winners = Vec::new();
        while let Some(written) = writers.join_next().await {
            if let (number, Put::Stored(etag)) = written.expect("it ends") {
                winners.push((number, etag));
            }
        }
        let [(winner, etag)] = &winners[..] else { panic!("{} writers created one object", winners.len()) };
        let store = place.open().await;
        let found = store.get(&key(&format!("round/{round}")), 1000).await.expect("no error").expect("it is there");
        assert_eq!((&found.bytes[..], &found.version.etag), (&vec![*winner; 1000][..], etag));
    }
}

async fn sixteen_count_to_a_hundred_and_sixty_by_compare_and_swap(place: &dyn Place) {
    const EACH: u32 = 10;
    // All texts have one length, and the writes follow one another closely. Each says who wrote it: after a lost answer, that tells
    // one's own write from another's.
    let text = |count: u32, writer: u32| format!("{count:08} {writer:02}");
    let parse = |bytes: &[u8]| std::str::from_utf8(&bytes[..8]).expect("digits").parse::<u32>().expect("digits");
    create(&place.open().await, "counter", text(0, 0)).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = place.open().await;
        writers.spawn(async move {
            let mut done = 0;
            while done < EACH {
                let found = store.get(&key("counter"), 11).await.expect("no error").expect("it is there");
                let next = text(parse(&found.bytes) + 1, writer);
                let swapped = put(&store, "counter", Condition::Matches(found.version.etag), next).await;
                done += u32::from(matches!(swapped, Put::Stored(_)));
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("it ends");
    }
    assert_eq!(parse(&content(&place.open().await, "counter").await.expect("it is there")), 16 * EACH);
}

async fn every_write_makes_another_version(place: &dyn Place) {
    let store = place.open().await;
    let mut seen = vec![create(&store, "object", "00000000").await];
    for number in 1..400 {
        let last = seen.last().expect("one was created").clone();
        match put(&store, "object", Condition::Matches(last), format!("{number:08}")).await {
            Put::Stored(etag) => {
                assert!(!seen.contains(&etag), "write {number} has the version of an earlier one");
                seen.push(etag);
            }
            Put::Refused => panic!("write {number}: nobody else writes"),
        }
    }
    for old in seen.iter().rev().skip(1) {
        assert_eq!(put(&store, "object", Condition::Matches(old.clone()), "99999999").await, Put::Refused);
        assert!(!store.delete(&key("object"), old).await.expect("no error"));
    }
    assert_eq!(content(&store, "object").await.expect("it is there"), "00000399");
}

async fn a_condition_that_does_not_hold_changes_nothing(place: &dyn Place) {
    let store = place.open().await;
    let etag = create(&store, "a", "one").await;
    let drafts = vec![
        Draft::of_bytes(key("a"), Condition::Absent, "two"),
        Draft::of_bytes(key("b"), Condition::Absent, "new"),
        Draft::of_bytes(key("c"), Condition::Matches(etag.clone()), "new"),
        Draft::of_bytes(key("a"), Condition::Matches(etag.clone()), "three"),
        Draft::of_bytes(key("a"), Condition::Matches(etag), "four"),
    ];
    let drafts = drafts.into_iter().zip(0..).map(|(draft, stage)| draft.in_stage(stage)).collect();
    let puts = store.publish(drafts).await.expect("it can be written");
    let stored: Vec<bool> = puts.iter().map(|put| matches!(put, Put::Stored(_))).collect();
    assert_eq!(stored, [false, true, false, true, false], "each draft is judged by itself, stage by stage");
    assert_eq!(content(&store, "a").await.expect("it is there"), "three");
    assert_eq!(content(&store, "b").await.expect("it is there"), "new");
    assert_eq!(content(&store, "c").await, None);
}

async fn an_object_is_whole_or_not_there_whoever_replaces_it(place: &dyn Place) {
    // Each version is one letter, so often as the letter says; whoever sees a mixture has seen half a write.
    let version = |number: u8| vec![b'a' + number % 26; 3_000 * usize::from(number % 26 + 1)];
    let store = place.open().await;
    create(&store, "object", version(0)).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, done) = (place.open().await, done.clone());
        readers.spawn(async move {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                let Some(found) = store.get(&key("object"), 1 << 20).await.expect("no error") else { continue };
                let letter = *found.bytes.first().expect("no version is empty");
                assert!(found.bytes == vec![letter; 3_000 * usize::from(letter - b'a' + 1)], "half a write");
                let stream = read_from_if_there(&store, "object").await;
                if let Some((size, bytes)) = stream {
                    let letter = *bytes.first().expect("no version is empty");
                    assert!(bytes == vec![letter; 3_000 * usize::from(letter - b'a' + 1)], "half a write");
                    assert_eq!(size, bytes.len() as u64);
                }
                read += 1;
            }
            read
        });
    }
    for number in 1..150_u8 {
        let found = store.head(&key("object")).await.expect("no error").expect("it is there");
        if number % 10 == 0 {
            assert!(store.delete(&key("object"), &found.version.etag).await.expect("no error"));
            create(&store, "object", version(number)).await;
        } else {
            let swapped = put(&store, "object", Condition::Matches(found.version.etag), version(number)).await;
            assert!(matches!(swapped, Put::Stored(_)));
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(read) = readers.join_next().await {
        read.expect("nobody saw half a write");
    }
}

async fn read_from_if_there(store: &Store, name: &str) -> Option<(u64, Vec<u8>)> {
    let (metadata, mut reader) = store.open(&key(name), 0).await.expect("no error")?;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    Some((metadata.size, read.await.expect("it ends").expect("it can be read")))
}

/// A large one may break off where it comes in slices.
async fn who_reads_an_object_reads_that_version_or_learns_that_it_is_gone(place: &dyn Place) {
    let store = place.open().await;
    for (size, other) in [(1 << 20, noise(4, 5)), (40 << 20, noise(4, 40 << 20))] {
        let bytes = noise(3, size);
        let etag = create(&store, "object", bytes.clone()).await;
        let (_, mut reader) = store.open(&key("object"), 0).await.expect("no error").expect("it is there");
        assert!(matches!(put(&store, "object", Condition::Matches(etag), other).await, Put::Stored(_)));
        let begin = tokio::task::spawn_blocking(move || {
            let mut read = vec![0; 1 << 20];
            reader.read_exact(&mut read).map(|()| (reader, read))
        });
        let (mut reader, mut read) = begin.await.expect("it ends").expect("it begins");
        let found = store.head(&key("object")).await.expect("no error").expect("it is there");
        assert!(store.delete(&key("object"), &found.version.etag).await.expect("no error"));
        let rest = tokio::task::spawn_blocking(move || reader.read_to_end(&mut read).map(|_| read));
        match rest.await.expect("it ends") {
            Ok(read) => assert!(read == bytes, "{size} bytes are those of one version"),
            Err(error) => {
                assert!(size > 4 << 20, "{error}");
                assert!(error.to_string().contains("it was deleted or replaced while it was read"), "{error}");
            }
        }
    }
}

async fn objects_become_visible_stage_by_stage(place: &dyn Place) {
    let store = place.open().await;
    for many in [2, 30] {
        let done = Arc::new(AtomicBool::new(false));
        let (watching, watched) = (place.open().await, done.clone());
        let watcher = tokio::spawn(async move {
            let mut round = 0;
            while !watched.load(Ordering::Relaxed) {
                // From the last backwards: when one is there, so are all before it.
                let mut visible = false;
                for number in (0..many).rev() {
                    let there = watching.head(&key(&format!("{many}/{round}/{number}"))).await.expect("no error");
                    assert!(there.is_some() || !visible, "{number} is missing, and a later one is there");
                    visible |= there.is_some();
                }
                round += usize::from(visible);
            }
        });
        for round in 0..20 {
            let drafts = (0..many).map(|number| {
                let name = key(&format!("{many}/{round}/{number}"));
                Draft::of_bytes(name, Condition::Absent, format!("{number}")).in_stage(number)
            });
            let puts = store.publish(drafts.collect()).await.expect("it can be written");
            assert!(puts.iter().all(|put| matches!(put, Put::Stored(_))));
        }
        done.store(true, Ordering::Relaxed);
        watcher.await.expect("nobody saw a later one first");
    }
}

async fn an_upload_is_visible_once_it_is_published(place: &dyn Place) {
    let (store, other) = (place.open().await, place.open().await);
    for size in [0, 10, 5 << 20] {
        let bytes = noise(size as u64, size);
        let (first, second) = bytes.split_at(size / 3);
        let finished = upload(&store, &[first, second]).await;
        assert!(names(&other, "uploads/").await.is_empty());
        let draft = Draft::of_upload(key("uploads/one"), Condition::Absent, finished);
        let puts = store.publish(vec![draft]).await.expect("it can be written");
        let [Put::Stored(etag)] = &puts[..] else { panic!("{puts:?}") };
        assert!(content(&other, "uploads/one").await.expect("it is there") == bytes);
        let again = upload(&store, &[b"other"]).await;
        let draft = Draft::of_upload(key("uploads/one"), Condition::Absent, again);
        assert_eq!(store.publish(vec![draft]).await.expect("no error"), [Put::Refused]);
        assert!(content(&other, "uploads/one").await.expect("it is there") == bytes);
        assert!(store.delete(&key("uploads/one"), etag).await.expect("no error"));
    }
}

async fn an_upload_that_is_dropped_leaves_nothing(place: &dyn Place) {
    let store = place.open().await;
    create(&store, "there", "x").await;
    let before = everything(&store).await;
    drop(store.upload(Expected::default()).await.expect("there is room"));
    drop(upload(&store, &[&noise(1, 1 << 20)]).await);
    let mut unfinished = store.upload(Expected::default()).await.expect("there is room");
    unfinished.write(b"half").expect("there is room");
    drop(unfinished);
    // Refused ones too.
    let refused = upload(&store, &[b"refused"]).await;
    let draft = Draft::of_upload(key("there"), Condition::Absent, refused);
    assert_eq!(store.publish(vec![draft]).await.expect("no error"), [Put::Refused]);
    assert_eq!(everything(&store).await, before);
}

/// What is finished may wait long for what is published with it.
async fn a_large_upload_that_is_finished_takes_no_memory(place: &dyn Place) {
    let store = place.open().await;
    let bytes = noise(1, 24 << 20);
    let expected = Expected { key: Some(key("nar/large")), at_most: Some(bytes.len() as u64) };
    let mut large = store.upload(expected).await.expect("there is room");
    let finished = tokio::task::spawn_blocking(move || {
        large.write(&bytes).expect("there is room");
        large.finish().expect("there is room");
        (large, bytes)
    });
    let (large, bytes) = finished.await.expect("it ends");
    for _ in 0..500 {
        if large.held() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(large.held(), 0);
    let draft = Draft::of_upload(key("nar/large"), Condition::Absent, large);
    assert!(matches!(store.publish(vec![draft]).await.expect("no error")[..], [Put::Stored(_)]));
    assert_eq!(
        store.head(&key("nar/large")).await.expect("it is there").expect("it is there").size,
        bytes.len() as u64
    );
}

/// A crash leaves uploads that nobody will finish. Not every provider can list them; who does can be rid of them.
async fn what_is_left_of_an_upload_is_found_and_removed(place: &dyn Place) {
    let ever = Timestamp::from_unix(i64::MAX);
    let (store, other) = (place.open().await, place.open().await);
    assert_eq!(other.leftovers(ever).await.expect("it can be listed"), []);
    let expected = Expected { key: Some(key("nar/left")), at_most: Some(20 << 20) };
    let mut left = store.upload(expected).await.expect("there is room");
    let left = tokio::task::spawn_blocking(move || {
        left.write(&noise(1, 12 << 20)).expect("there is room");
        left.finish().expect("there is room");
        left
    });
    std::mem::forget(left.await.expect("it ends"));
    let mut found = Vec::new();
    for _ in 0..100 {
        found = other.leftovers(ever).await.expect("it can be listed");
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(other.leftovers(Timestamp::from_unix(0)).await.expect("it can be listed"), [], "none is so old");
    for leftover in found {
        other.remove_leftover(&leftover).await.expect("it can be removed");
        other.remove_leftover(&leftover).await.expect("it is gone already");
    }
    assert_eq!(other.leftovers(ever).await.expect("it can be listed"), []);
    assert_eq!(content(&other, "nar/left").await, None);
}

/// Every key of a store, and whatever else it would list.
async fn everything(store: &Store) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        found.extend(names(store, &folder).await.into_iter().map(|name| format!("{folder}{name}")));
        let below = store.list_folders(&folder).await.expect("it can be listed");
        folders.extend(below.into_iter().map(|name| format!("{folder}{name}/")));
    }
    found
}

async fn an_upload_to_another_store_is_refused(place: &dyn Place) {
    /// An upload that no store made.
    struct Foreign;
    impl Upload for Foreign {
        fn write(&mut self, _: &[u8]) -> Result<(), ObjectError> {
            Ok(())
        }
        fn finish(&mut self) -> Result<(), ObjectError> {
            Ok(())
        }
        fn held(&self) -> usize {
            0
        }
        fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
            self
        }
    }
    let store = place.open().await;
    let draft = Draft::of_upload(key("foreign"), Condition::Absent, Box::new(Foreign));
    assert!(store.publish(vec![draft]).await.is_err());
    assert!(store.head(&key("foreign")).await.expect("no error").is_none());
}

async fn a_folder_is_listed_page_by_page(place: &dyn Place) {
    let store = place.open().await;
    let expected: BTreeSet<String> = (0..1300).map(|number| format!("{number:04}.narinfo")).collect();
    for names in expected.iter().collect::<Vec<_>>().chunks(100) {
        let drafts = names
            .iter()
            .map(|name| Draft::of_bytes(key(&format!("listed/{name}")), Condition::Absent, (*name).clone()));
        store.publish(drafts.collect()).await.expect("it can be written");
    }
    create(&store, "listed/below/one", "x").await;
    create(&store, "listed/beside/two", "x").await;
    create(&store, "top", "x").await;
    assert_eq!(names(&store, "listed/").await, expected, "what is below folders is not in it");
    assert_eq!(names(&store, "").await, BTreeSet::from(["top".to_owned()]));
    let folders: BTreeSet<String> = store.list_folders("listed/").await.expect("no error").into_iter().collect();
    assert_eq!(folders, BTreeSet::from(["below".to_owned(), "beside".to_owned()]));
    let mut pages = store.list("listed/").await.expect("no error");
    let mut count = 0;
    while let Some(page) = pages.next().await.expect("no error") {
        count += usize::from(!page.is_empty());
        for entry in page {
            let found = store.head(&key(&format!("listed/{}", entry.name))).await.expect("no error");
            assert_eq!(found, Some(entry.metadata), "size and version are those of the object");
        }
    }
    assert!(count > 1, "a large folder takes several pages");
    // Who has enough may stop.
    let mut pages = store.list("listed/").await.expect("no error");
    assert!(pages.next().await.expect("no error").is_some());
    drop(pages);
}

async fn a_folder_may_change_while_it_is_listed(place: &dyn Place) {
    let store = place.open().await;
    for number in 0..600 {
        create(&store, &format!("changing/{number}"), "x").await;
    }
    let mut pages = store.list("changing/").await.expect("no error");
    let mut listed = BTreeSet::new();
    let mut number = 0;
    while let Some(page) = pages.next().await.expect("what vanishes is passed over") {
        listed.extend(page.into_iter().map(|entry| entry.name));
        for gone in [599 - number, 598 - number] {
            let name = key(&format!("changing/{gone}"));
            if let Some(found) = store.head(&name).await.expect("no error") {
                store.delete(&name, &found.version.etag).await.expect("no error");
            }
        }
        create(&store, &format!("changing/new-{number}"), "x").await;
        number += 2;
    }
    for stays in 0..590 {
        assert!(listed.contains(&stays.to_string()), "{stays} was there all the time");
    }
}

async fn an_object_is_deleted_by_its_version(place: &dyn Place) {
    let store = place.open().await;
    let first = create(&store, "object", "one").await;
    let Put::Stored(second) = put(&store, "object", Condition::Matches(first.clone()), "two").await else {
        panic!("nobody else writes")
    };
    assert!(!store.delete(&key("object"), &first).await.expect("no error"));
    assert_eq!(content(&store, "object").await.expect("it is there"), "two");
    assert!(store.delete(&key("object"), &second).await.expect("no error"));
    assert!(!store.delete(&key("object"), &second).await.expect("no error"));
    assert_eq!(content(&store, "object").await, None);
    create(&store, "object", "three").await;
    assert!(!store.delete(&key("object"), &second).await.expect("no error"));
    assert_eq!(content(&store, "object").await.expect("it is there"), "three");
}

async fn one_of_sixteen_deletes_an_object(place: &dyn Place) {
    let etag = create(&place.open().await, "object", "x").await;
    let mut deleters = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, etag) = (place.open().await, etag.clone());
        deleters.spawn(async move { store.delete(&key("object"), &etag).await.expect("no error") });
    }
    let mut deleted = 0;
    while let Some(one) = deleters.join_next().await {
        deleted += u32::from(one.expect("it ends"));
    }
    assert_eq!(deleted, 1);
}

async fn no_folder_leads_out_of_the_store(place: &dyn Place) {
    let store = place.open().await;
    create(&store, "inside/object", "x").await;
    for folder in ["../", "/", "/etc/", "inside/../", "inside/../../", "./", "..", "inside//", "inside/\0/"] {
        let listed = match store.list(folder).await {
            Ok(mut pages) => match pages.next().await {
                Ok(page) => page.unwrap_or_default(),
                Err(_) => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        assert!(listed.is_empty(), "{folder:?}: {listed:?}");
        assert!(store.list_folders(folder).await.unwrap_or_default().is_empty(), "{folder:?}");
    }
}

#[test]
fn no_key_leads_out_of_the_store() {
    let good = [
        "nix-cache-info",
        "1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl.narinfo",
        "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.zst",
        "log/1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-hello.drv",
        "realisations/sha256:00!out.doi",
        "...",
        "a..b",
        "-rf",
    ];
    for text in good {
        assert_eq!(Key::new(text).map(|key| key.as_str().to_owned()).as_deref(), Some(text));
    }
    let too_long = "x".repeat(1025);
    let bad = [
        "",
        "/",
        "/etc/passwd",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/./b",
        "./a",
        "a\0b",
        "a\nb",
        "a b",
        "a\\b",
        "~",
        "a%2e%2e",
        "a&b",
        "a#b",
        "ä",
        "a/\u{202e}b",
        "*",
        "a\u{7f}",
        &too_long,
    ];
    for text in bad {
        assert!(Key::new(text).is_none(), "{text:?}");
    }
}

/// Makes a test of each check for each kind of store, with a further attribute for those of some kinds.
macro_rules! contract {
    (checks: $checks:tt $($(#[$only:meta])? $kind:ident: $place:expr;)+) => {
        $(contract!(@one [$(#[$only])?] $kind, $place, $checks);)+
    };
    (@one $only:tt $kind:ident, $place:expr, [$($check:ident),+ $(,)?]) => {
        mod $kind {
            $(contract!(@test $only $check, $place);)+
        }
    };
    (@test [$(#[$only:meta])?] $check:ident, $place:expr) => {
        #[test]
        $(#[$only])?
        fn $check() {
            let Some(place) = $place else { return };
            super::block_on(super::$check(&place));
        }
    };
}

contract! {
    checks: [
        what_is_not_there_is_none,
        what_was_put_is_read_back_by_everybody,
        what_is_longer_than_the_limit_is_not_read,
        an_object_is_read_from_any_byte_on,
        one_of_sixteen_creates_an_object,
        sixteen_count_to_a_hundred_and_sixty_by_compare_and_swap,
        every_write_makes_another_version,
        a_condition_that_does_not_hold_changes_nothing,
        an_object_is_whole_or_not_there_whoever_replaces_it,
        who_reads_an_object_reads_that_version_or_learns_that_it_is_gone,
        objects_become_visible_stage_by_stage,
        an_upload_is_visible_once_it_is_published,
        an_upload_that_is_dropped_leaves_nothing,
        an_upload_to_another_store_is_refused,
        a_large_upload_that_is_finished_takes_no_memory,
        what_is_left_of_an_upload_is_found_and_removed,
        a_folder_is_listed_page_by_page,
        a_folder_may_change_while_it_is_listed,
        an_object_is_deleted_by_its_version,
        one_of_sixteen_deletes_an_object,
        no_folder_leads_out_of_the_store,
    ]
    directory: Some(super::Folder::new());
    moto: super::Remote::on(super::moto(), super::Writers::Any);
    s3s_fs: super::Remote::on(super::s3s_fs(), super::Writers::One);
    #[ignore = "tests/s3/garage runs it"]
    garage: super::Remote::on(Some(super::garage()), super::Writers::One);
}

fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// A directory as a place for objects.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }
}

#[async_trait]
impl Place for Folder {
    async fn open(&self) -> Store {
        Arc::new(Directory::open(self.0.path().join("objects")).expect("it can be written"))
    }
}

/// A bucket as a place for objects.
struct Remote {
    server: &'static S3,
    bucket: String,
    writers: Writers,
    /// Where there may be one writer only, everybody shares it.
    one: tokio::sync::OnceCell<Store>,
}

impl Remote {
    fn on(server: Option<&'static S3>, writers: Writers) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let server = server?;
        let bucket = format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.make_bucket(&bucket);
        Some(Self { server, bucket, writers, one: tokio::sync::OnceCell::new() })
    }
}

/// The tests' servers are near.
fn patience() -> Patience {
    let [connect, attempt, total, lease] = [2, 5, 20, 18].map(Duration::from_secs);
    Patience { connect, attempt, total, lease }
}

#[async_trait]
impl Place for Remote {
    async fn open(&self) -> Store {
        match self.writers {
            Writers::Any => self.connect().await,
            Writers::One => self.one.get_or_init(|| self.connect()).await.clone(),
        }
    }
}

impl Remote {
    async fn connect(&self) -> Store {
        let location = Location::parse(&self.server.uri(&self.bucket)).expect("a location");
        let account = &self.server.account;
        let credentials = Credentials::new(&account.access_key, &account.secret_key, None, None, "test");
        Arc::new(
            Bucket::open(location, patience(), Some(credentials), self.writers).await.expect("it keeps writers apart"),
        )
    }
}

// What concerns the directory alone.

#[test]
fn a_directory_keeps_no_temporary_files() {
    let folder = Folder::new();
    let store = block_on(folder.open());
    block_on(async {
        for round in 0..3 {
            let drafts = (0..10).map(|number| Draft::of_bytes(key(&format!("{number}")), Condition::Absent, "x"));
            let puts = store.publish(drafts.collect()).await.expect("it can be written");
            assert_eq!(
                puts.iter().filter(|put| matches!(put, Put::Stored(_))).count(),
                if round == 0 { 10 } else { 0 }
            );
        }
        drop(upload(&store, &[b"dropped"]).await);
    });
    let left = files(&folder.0.path().join("objects"));
    assert!(left.keys().all(|name| !name.starts_with("quorum/tmp/")), "{left:?}");
}

#[test]
fn opening_a_directory_removes_what_crashes_left_behind_days_ago() {
    let folder = Folder::new();
    drop(block_on(folder.open()));
    let temporary = folder.0.path().join("objects/quorum/tmp");
    for (name, age) in [("old", 3 * 24), ("young", 1)] {
        let file = std::fs::File::create(temporary.join(name)).expect("it can be written");
        let modified = SystemTime::now() - Duration::from_secs(age * 60 * 60);
        file.set_times(std::fs::FileTimes::new().set_modified(modified)).expect("it is ours");
    }
    drop(block_on(folder.open()));
    assert!(!temporary.join("old").exists());
    assert!(temporary.join("young").exists(), "somebody may be writing it");
}

/// Each object of the child's says how long it is and what its hash is.
fn self_describing(number: u64) -> Vec<u8> {
    let body = noise(number, 1 + (number as usize * 7919) % 200_000);
    let mut bytes = Sha256::digest(&body).to_vec();
    bytes.extend(body);
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() > 32 && bytes[..32] == Sha256::digest(&bytes[32..])[..]
}

#[test]
fn a_writer_that_is_killed_leaves_only_whole_objects() {
    let folder = Folder::new();
    let mut written = 0;
    for round in 0..25_u64 {
        let mut worker =
            Worker::start("child_writes_until_it_is_killed", folder.0.path(), &[("ROUND", round.to_string())]);
        worker.wait_for("writing");
        std::thread::sleep(Duration::from_micros(noise(round, 1)[0] as u64 * 400));
        worker.kill();
        let store = block_on(folder.open());
        block_on(async {
            let objects = names(&store, "objects/").await;
            written = objects.len();
            for name in objects {
                let bytes = content(&store, &format!("objects/{name}")).await.expect("it is there");
                assert!(is_whole(&bytes), "round {round}: {name} is half written");
            }
            let shared = content(&store, "shared").await.expect("it is there");
            assert!(is_whole(&shared), "round {round}: the object that was replaced again and again is half written");
            // The locks of the dead are free.
            let found = store.head(&key("shared")).await.expect("no error").expect("it is there");
            let swapped = put(&store, "shared", Condition::Matches(found.version.etag), self_describing(0)).await;
            assert!(matches!(swapped, Put::Stored(_)));
        });
    }
    support::measured(&format!("{written} objects by 25 writers that were killed"));
    assert!(written > 25);
}

#[test]
#[ignore = "is run by a_writer_that_is_killed_leaves_only_whole_objects, in a process of its own"]
fn child_writes_until_it_is_killed() {
    let Some(place) = child::place() else { return };
    let round: u64 = std::env::var("ROUND").expect("the parent sets it").parse().expect("a number");
    let store: Store = Arc::new(Directory::open(place.join("objects")).expect("it can be written"));
    block_on(async {
        if round == 0 {
            create(&store, "shared", self_describing(0)).await;
        }
        child::say("writing");
        for number in 0.. {
            let number = round << 32 | number;
            let finished = upload(&store, &[&self_describing(number)]).await;
            let place = key(&format!("objects/{number}-upload"));
            let mut drafts = vec![Draft::of_upload(place, Condition::Absent, finished)];
            for more in 0..number % 12 {
                let bytes = self_describing(number + more);
                drafts.push(Draft::of_bytes(key(&format!("objects/{number}-{more}")), Condition::Absent, bytes));
            }
            let found = store.head(&key("shared")).await.expect("no error").expect("it is there");
            drafts.push(Draft::of_bytes(
                key("shared"),
                Condition::Matches(found.version.etag),
                self_describing(number),
            ));
            store.publish(drafts).await.expect("it can be written");
        }
    });
}
