//! A provider that does not look at the conditions of writes, as garage is: what opening its buckets says. That the rest of the
//! contract holds over it too is in `object_contract.rs`. `tests/s3/garage` runs both; by themselves they are ignored.

mod support;

use std::time::Duration;

use bytes::Bytes;
use store_backend::object::{
    Bucket, Condition, Credentials, Draft, Expected, Key, Location, ObjectError, ObjectStore as _, Patience, Put,
    Writers,
};
use support::package::noise;
use support::s3::garage;

/// Opens a bucket as a gate does.
async fn open(bucket: &str, writers: Writers) -> Result<Bucket, ObjectError> {
    let server = garage();
    let location = Location::parse(&server.uri(bucket)).expect("a location");
    let credentials = Credentials::new(&server.account.access_key, &server.account.secret_key, None, None, "test");
    let [connect, attempt, total, lease] = [2, 5, 20, 6].map(Duration::from_secs);
    Bucket::open(location, Patience { connect, attempt, total, lease }, Some(credentials), writers).await
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

async fn create(bucket: &Bucket, name: &str) -> Result<Vec<Put>, ObjectError> {
    bucket.publish(vec![Draft::of_bytes(key(name), Condition::Absent, name.to_owned())]).await
}

async fn content(bucket: &Bucket, name: &str) -> Option<Bytes> {
    bucket.get(&key(name), 1 << 30).await.expect("it can be read").map(|object| object.bytes)
}

/// Returns an error's text with those of its causes.
fn text(error: &ObjectError) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

fn refusal(opened: Result<Bucket, ObjectError>) -> String {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(error) => text(&error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tests/s3/garage runs it"]
async fn over_garage_several_gates_are_refused_and_one_is_not() {
    garage().make_bucket("several");
    // The second time, the answer is known from the bucket.
    for _ in 0..2 {
        let said = refusal(open("several", Writers::Any).await);
        assert!(said.contains("s3://several") && said.contains("the provider ignores conditional writes"), "{said}");
        assert!(said.contains("give --single-writer"), "{said}");
    }
    let one = open("several", Writers::One).await.expect("one gate may");
    let left: Vec<String> = one.list_folders("quorum/").await.expect("it can be listed");
    assert!(left.is_empty(), "the probe is gone: {left:?}");
    assert!(matches!(create(&one, "object").await.expect("it can be written")[..], [Put::Stored(_)]));
    assert_eq!(create(&one, "object").await.expect("no error"), [Put::Refused]);
    assert_eq!(content(&one, "object").await.expect("it is there"), "object");
    one.close().await;
    // Who says that there are several is refused as before.
    assert!(refusal(open("several", Writers::Any).await).contains("ignores conditional writes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tests/s3/garage runs it"]
async fn over_garage_a_second_gate_is_refused_while_the_first_holds_the_lease() {
    garage().make_bucket("lease");
    let first = open("lease", Writers::One).await.expect("nobody else writes");
    assert!(matches!(create(&first, "one").await.expect("it can be written")[..], [Put::Stored(_)]));
    let said = refusal(open("lease", Writers::One).await);
    let holder = format!("process {} on ", std::process::id());
    assert!(said.contains(&holder) && said.contains("only one gate may"), "{said}");
    // The first goes on, longer than its lease lasts.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(matches!(create(&first, "two").await.expect("it still holds the lease")[..], [Put::Stored(_)]));
    first.close().await;
    assert!(create(&first, "three").await.is_err(), "it gave the lease back");
    let second = open("lease", Writers::One).await.expect("nobody holds the lease");
    assert!(matches!(create(&second, "three").await.expect("it can be written")[..], [Put::Stored(_)]));
    assert_eq!(content(&second, "two").await.expect("the first wrote it"), "two");
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tests/s3/garage runs it"]
async fn over_garage_what_goes_up_in_parts_replaces_nothing_that_it_should_not() {
    garage().make_bucket("parts");
    let bucket = open("parts", Writers::One).await.expect("nobody else writes");
    let [first, second, third] = [1, 2, 3].map(|seed| noise(seed, (12 << 20) + 1));
    // Where it will be is known while it goes up, or is not.
    for (name, expected) in [("known", Some(key("known"))), ("unknown", None)] {
        let publish = async |condition: Condition, bytes: &Vec<u8>| {
            let (bytes, expected) = (bytes.clone(), Expected { key: expected.clone(), at_most: None });
            let mut upload = bucket.upload(expected).await.expect("there is room");
            let upload = tokio::task::spawn_blocking(move || {
                upload.write(&bytes).expect("there is room");
                upload.finish().expect("there is room");
                upload
            });
            let draft = Draft::of_upload(key(name), condition, upload.await.expect("it ends"));
            bucket.publish(vec![draft]).await.expect("it can be written").remove(0)
        };
        let Put::Stored(etag) = publish(Condition::Absent, &first).await else { panic!("nothing was there") };
        assert_eq!(publish(Condition::Absent, &second).await, Put::Refused);
        assert!(content(&bucket, name).await.expect("it is there") == first);
        assert!(matches!(publish(Condition::Matches(etag.clone()), &second).await, Put::Stored(_)));
        assert_eq!(publish(Condition::Matches(etag), &third).await, Put::Refused);
        assert!(content(&bucket, name).await.expect("it is there") == second);
    }
    bucket.close().await;
}
