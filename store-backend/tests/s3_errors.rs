//! What is wrong with a bucket's settings is said at once, in words that tell which setting it is.

mod support;

use std::time::{Duration, Instant};

use store_backend::object::{
    Bucket, Condition, Credentials, Draft, Key, Location, ObjectError, ObjectStore as _, Patience, Writers,
};
use support::faults::{Answer, Fault, Operation, Proxy};
use support::s3::{Account, S3, moto, s3s_fs};
use tokio::net::TcpListener;
use verifier::Timestamp;

/// What is refused is not tried again; if it were, it would take this long.
const TOTAL: Duration = Duration::from_secs(20);

/// Takes longer than any answer from loopback on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

fn patience() -> Patience {
    let [connect, attempt, lease] = [2, 5, 6].map(Duration::from_secs);
    Patience { connect, attempt, total: TOTAL, lease }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn location(port: u16, bucket: &str) -> Location {
    let uri = format!("s3://{bucket}?endpoint=http://127.0.0.1:{port}&region=us-east-1");
    Location::parse(&uri).expect("a location")
}

fn credentials(account: &Account) -> Option<Credentials> {
    Some(Credentials::new(&account.access_key, &account.secret_key, None, None, "test"))
}

fn somebody() -> Option<Credentials> {
    Some(Credentials::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None, None, "test"))
}

/// What may be done with a bucket.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Opening,
    Reading,
    Inspecting,
    Listing,
}

async fn does(doing: Doing, location: Location, credentials: Option<Credentials>) -> Result<String, ObjectError> {
    if matches!(doing, Doing::Opening) {
        return Bucket::open(location, patience(), credentials, Writers::Any).await.map(|_| "opened".into());
    }
    let bucket = Bucket::connect(location, patience(), credentials).await.expect("nobody is asked yet");
    match doing {
        Doing::Inspecting => bucket.head(&key("object")).await.map(|found| format!("{found:?}")),
        Doing::Listing => list(&bucket).await.map(|page| format!("{page} entries")),
        Doing::Reading | Doing::Opening => bucket.get(&key("object"), 10_000).await.map(|found| format!("{found:?}")),
    }
}

async fn list(bucket: &Bucket) -> Result<usize, ObjectError> {
    bucket.list("").await?.next().await.map(|page| page.map_or(0, |page| page.len()))
}

async fn write(bucket: &Bucket, name: &str) -> Result<(), ObjectError> {
    bucket.publish(vec![Draft::of_bytes(key(name), Condition::Absent, "content")]).await.map(|_| ())
}

/// Checks that something fails at once, with these words.
async fn fails<T>(case: &str, words: &[&str], work: impl Future<Output = Result<T, ObjectError>>)
where
    T: std::fmt::Debug,
{
    let begun = Instant::now();
    let error = match work.await {
        Ok(done) => panic!("{case}: {done:?}"),
        Err(error) => error.to_string(),
    };
    support::measured(&format!("{case}: {error}"));
    for word in words.iter().chain(&["s3://"]) {
        assert!(error.contains(word), "{case}: {word:?} is not in {error:?}");
    }
    assert!(!error.contains('\n') && error.len() < 900, "{case}: {error:?}");
    assert!(begun.elapsed() < AT_ONCE, "{case}: it was tried for {:?}", begun.elapsed());
}

const ALL: &[Doing] = &[Doing::Opening, Doing::Reading, Doing::Listing];

/// The answers of AWS, word by word, and what is made of them.
fn answers() -> Vec<(&'static str, Answer, &'static [Doing], &'static [&'static str])> {
    let redirected = "The bucket you are attempting to access must be addressed using the specified endpoint. Please send \
                      all future requests to this endpoint.";
    let redirected = Answer::error_with(
        301,
        "PermanentRedirect",
        redirected,
        "<Endpoint>cache.s3-eu-west-1.amazonaws.com</Endpoint><Bucket>cache</Bucket>",
    );
    let skewed = Answer::error_with(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
        "<RequestTime>20360701T110000Z</RequestTime><ServerTime>2036-07-01T12:00:00Z</ServerTime>\
         <MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds>",
    );
    let skewed = skewed.with("Date", "Tue, 01 Jul 2036 12:00:00 GMT");
    let denied = "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: s3:ListBucket on resource: \
                  &quot;arn:aws:s3:::cache&quot; because no identity-based policy allows the s3:ListBucket action";
    let html = |status| Answer::new(status, "text/html; charset=utf-8", "<!DOCTYPE html><html><p>Hello</html>");
    vec![
        (
            "a region that is not the bucket's, by its endpoint",
            Answer::error_with(
                400,
                "AuthorizationHeaderMalformed",
                "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
                "<Region>eu-west-1</Region>",
            ),
            ALL,
            &["another region", "region=eu-west-1"],
        ),
        (
            "a region that is not the bucket's, by another's",
            redirected.clone().with("x-amz-bucket-region", "eu-west-1"),
            ALL,
            &["another region", "region=eu-west-1"],
        ),
        ("a region that nobody names", redirected, ALL, &["another region", "region=…"]),
        (
            "a region that is not the bucket's, without a body",
            Answer::new(400, "application/xml", "").with("x-amz-bucket-region", "eu-west-1"),
            &[Doing::Inspecting],
            &["another region", "region=eu-west-1"],
        ),
        (
            "a bucket that is not there",
            Answer::error_with(
                404,
                "NoSuchBucket",
                "The specified bucket does not exist",
                "<BucketName>cache</BucketName>",
            ),
            ALL,
            &["s3://cache", "no such bucket", "create it"],
        ),
        (
            "a token that has expired",
            Answer::error(400, "ExpiredToken", "The provided token has expired."),
            ALL,
            &["session token has expired", "get new credentials"],
        ),
        (
            "a token that is none",
            Answer::error(400, "InvalidToken", "The provided token is malformed or otherwise invalid."),
            ALL,
            &["session token", "not valid", "get new credentials"],
        ),
        ("a clock that is late", skewed, ALL, &["clock", "Tue, 01 Jul 2036 12:00:00 GMT", "set it"]),
        (
            "an access key that nobody knows",
            Answer::error(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            ),
            ALL,
            &["does not know the access key", "AWS_ACCESS_KEY_ID"],
        ),
        (
            "a secret that is another's",
            Answer::error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your key and \
                 signing method.",
            ),
            ALL,
            &["secret key", "AWS_SECRET_ACCESS_KEY"],
        ),
        (
            "a policy that denies it",
            Answer::error(403, "AccessDenied", denied),
            ALL,
            &["access is denied", "no identity-based policy allows the s3:ListBucket action", "s3:GetObject"],
        ),
        (
            "a policy that denies it, without a body",
            Answer::new(403, "application/xml", ""),
            &[Doing::Inspecting],
            &["access is denied", "s3:GetObject"],
        ),
        ("a web site that says yes", html(200), ALL, &["no S3", "endpoint"]),
        ("a web site that says no", html(404), ALL, &["no S3", "endpoint"]),
        ("a web site that takes no such requests", html(405), ALL, &["no S3", "endpoint"]),
        (
            "a service that is another",
            Answer::new(404, "application/json", "{\"detail\":\"Not Found\"}"),
            ALL,
            &["no S3", "endpoint"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_refuses_is_said_at_once() {
    for (case, answer, doings, words) in answers() {
        for doing in doings {
            let answer = answer.clone();
            let server = Proxy::answering(move |_| answer.clone()).await;
            let work = does(*doing, location(server.port, "cache"), somebody());
            fails(&format!("{case}, {doing:?}"), words, work).await;
            // Once more by the provider's clock.
            let most = if words.contains(&"clock") { 2 } else { 1 };
            assert_eq!(server.requests("").len(), most, "{case}, {doing:?}: what is refused is not tried again");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_refuses_to_write_is_said_at_once() {
    let Some(server) = moto() else { return };
    server.make_bucket("refusals");
    let proxy = Proxy::start(server.port).await;
    let open = Bucket::open(location(proxy.port, "refusals"), patience(), credentials(&server.account), Writers::Any);
    let bucket = open.await.expect("nothing is refused yet");
    write(&bucket, "there").await.expect("nothing is refused yet");
    let html = Answer::new(405, "text/html", "<html>");
    let cases: [(_, _, &[&str]); 5] = [
        (
            "a storage class that the provider does not have",
            Answer::error(400, "InvalidStorageClass", "The storage class you specified is not valid"),
            &["storage class", "storage-class", "s3://refusals/object"],
        ),
        (
            "a token that has expired meanwhile",
            Answer::error(400, "ExpiredToken", "The provided token has expired."),
            &["session token has expired", "s3://refusals/object"],
        ),
        (
            "a policy that denies it",
            Answer::error(403, "AccessDenied", "Access Denied"),
            &["access is denied", "s3:PutObject", "s3://refusals/object"],
        ),
        (
            "a bucket that was deleted",
            Answer::error(404, "NoSuchBucket", "The specified bucket does not exist"),
            &["no such bucket", "s3://refusals/object"],
        ),
        ("a web site that takes no such requests", html, &["no S3", "endpoint", "s3://refusals/object"]),
    ];
    let etag = bucket.head(&key("there")).await.expect("no error").expect("it is there").version.etag;
    for (case, answer, words) in cases {
        for condition in [Condition::Absent, Condition::Matches(etag.clone())] {
            proxy.heal();
            proxy.next("object", Operation::Put, usize::MAX, Fault::Answer(answer.clone()));
            let before = proxy.count("object", Operation::Put);
            let draft = Draft::of_bytes(key("object"), condition.clone(), "content");
            fails(&format!("{case}, {condition:?}"), words, bucket.publish(vec![draft])).await;
            assert_eq!(proxy.count("object", Operation::Put), before + 1, "{case}: what is refused is not tried again");
        }
    }
}

/// Returns a bucket, and an account that may do just some things in it.
fn restricted(server: &S3, name: &str, actions: &[&str]) -> Option<Credentials> {
    server.make_bucket(name);
    credentials(&server.make_account(name, actions))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_lacks_an_action_is_told_what_it_needs() {
    let Some(server) = moto() else { return };
    for (name, denied, actions) in [
        ("no-reading", "s3:GetObject", &["s3:PutObject", "s3:DeleteObject", "s3:ListBucket"][..]),
        ("no-writing", "s3:PutObject", &["s3:GetObject", "s3:DeleteObject", "s3:ListBucket"]),
        ("no-listing", "s3:ListBucket", &["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]),
    ] {
        let credentials = restricted(server, name, actions);
        let location = location(server.port, name);
        let open = Bucket::open(location.clone(), patience(), credentials.clone(), Writers::Any);
        let open = async { open.await.map(|_| "opened") };
        fails(&format!("{name}, opening"), &["access is denied", denied, name], open).await;
        let bucket = Bucket::connect(location, patience(), credentials).await.expect("nobody is asked yet");
        let object = key("object");
        let (read, listed) = (bucket.get(&object, 10), list(&bucket));
        match denied {
            "s3:GetObject" => fails("reading", &["access is denied", denied, "s3://no-reading/object"], read).await,
            "s3:ListBucket" => fails("listing", &["access is denied", denied, "s3://no-listing/"], listed).await,
            _ => assert!(read.await.expect("it may be read").is_none()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_refuse_other_accounts_and_buckets() {
    let only_objects = s3s_fs().map_or(0, |server| server.port);
    for server in [moto(), s3s_fs()].into_iter().flatten() {
        let name = format!("accounts-{}", server.port);
        server.make_bucket(&name);
        let Account { access_key, secret_key } = server.account.clone();
        let wrong = Account { access_key: access_key.clone(), secret_key: "another".into() };
        let unknown = Account { access_key: "AKIAIOSFODNN7EXAMPLE".into(), secret_key };
        for doing in ALL {
            let work = does(*doing, location(server.port, &name), credentials(&wrong));
            fails("a secret that is another's", &["AWS_SECRET_ACCESS_KEY"], work).await;
            let work = does(*doing, location(server.port, &name), credentials(&unknown));
            fails("an access key that nobody knows", &["AWS_ACCESS_KEY_ID"], work).await;
            // s3s-fs says of the object that it is missing, not of the bucket.
            if server.port == only_objects && matches!(doing, Doing::Reading) {
                continue;
            }
            let work = does(*doing, location(server.port, "not-there"), credentials(&server.account));
            fails("a bucket that is not there", &["no such bucket", "s3://not-there"], work).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_the_deadline_ends_it() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("it is bound").port()
    };
    let patience = Patience { total: Duration::from_secs(2), ..patience() };
    let bucket = Bucket::connect(location(port, "cache"), patience, somebody()).await.expect("nobody is asked yet");
    let words = ["Connection refused", "check the network", "endpoint", "tried", "s3://cache/object"];
    fails("reading", &words, bucket.get(&key("object"), 10)).await;
    fails("inspecting", &words, bucket.head(&key("object"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_does_not_exist_is_named() {
    let location = Location::parse("s3://cache?profile=nobody-has-this&region=us-east-1").expect("a location");
    for (case, none) in [("connecting", None), ("opening", Some(()))] {
        let location = location.clone();
        let work = async move {
            match none {
                None => Bucket::connect(location, patience(), None).await.map(|_| "connected"),
                Some(()) => Bucket::open(location, patience(), None, Writers::Any).await.map(|_| "opened"),
            }
        };
        fails(case, &["nobody-has-this", "profile=", "AWS_CONFIG_FILE", "s3://cache"], work).await;
    }
}

#[test]
fn a_storage_class_that_there_is_not_is_said_with_those_there_are() {
    let error = Location::parse("s3://cache?storage-class=STANDARD-IA").expect_err("it is misspelt").to_string();
    for word in ["storage-class", "STANDARD-IA", "STANDARD_IA", "INTELLIGENT_TIERING"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

/// A provider that sends one back to where one has been would never let a listing end.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_goes_round_is_an_error() {
    for tokens in [&["a"][..], &["a", "b", "c"]] {
        let mut asked = 0;
        let server = Proxy::answering(move |_| {
            let token = tokens[asked % tokens.len()];
            asked += 1;
            Answer::new(
                200,
                "application/xml",
                &format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>bucket</Name><Prefix></Prefix>\
                     <IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>\
                     <CommonPrefixes><Prefix>nar/</Prefix></CommonPrefixes></ListBucketResult>"
                ),
            )
        });
        let server = server.await;
        let bucket = Bucket::connect(location(server.port, "bucket"), patience(), somebody()).await;
        let bucket = bucket.expect("nobody is asked yet");
        let began = Instant::now();
        let mut pages = bucket.list("").await.expect("it begins");
        let pages = loop {
            match pages.next().await {
                Ok(page) => assert!(page.is_some(), "it goes round"),
                Err(error) => break error.to_string(),
            }
        };
        let folders = bucket.list_folders("").await.expect_err("it goes round").to_string();
        for error in [pages, folders] {
            assert!(error.contains("s3://bucket") && error.contains("again and again"), "{error}");
        }
        assert_eq!(server.requests("").len(), 2 * (tokens.len() + 1));
        assert!(began.elapsed() < AT_ONCE);
    }
}

/// As of a provider that knows only the first version of listings: what it lists first is not all there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_not_whole_is_an_error() {
    let server = Proxy::answering(|request| {
        let (kind, rest) = match request.operation() {
            Operation::List => {
                ("Bucket", "<NextMarker>b</NextMarker><CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>")
            }
            _ => ("MultipartUploads", ""),
        };
        let body = format!("<List{kind}Result><IsTruncated>true</IsTruncated>{rest}</List{kind}Result>");
        Answer::new(200, "application/xml", &body)
    });
    let server = server.await;
    let bucket = Bucket::connect(location(server.port, "bucket"), patience(), somebody()).await;
    let bucket = bucket.expect("nobody is asked yet");
    let mut pages = bucket.list("").await.expect("it begins");
    let page = pages.next().await.expect_err("there is more").to_string();
    let folders = bucket.list_folders("").await.expect_err("there is more").to_string();
    let leftovers = bucket.leftovers(Timestamp::from_unix(i64::MAX)).await.expect_err("there is more").to_string();
    for error in [page, folders, leftovers] {
        assert!(error.contains("s3://bucket") && error.contains("there is more"), "{error}");
    }
}

/// What stands in front of a provider has its own numbers for trouble that passes.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_any_number_passes() {
    let empty = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>";
    let cases = [(500, 3), (502, 3), (503, 3), (504, 3), (507, 3), (520, 3), (526, 3), (599, 3), (501, 1), (505, 1)];
    for (status, requests) in cases {
        let mut asked = 0;
        let server = Proxy::answering(move |_| {
            asked += 1;
            match asked {
                ..=2 => Answer::new(status, "text/html", "<html>Web server returned an unknown error</html>"),
                _ => Answer::new(200, "application/xml", empty),
            }
        });
        let server = server.await;
        let bucket = Bucket::connect(location(server.port, "bucket"), patience(), somebody()).await;
        let listed = list(&bucket.expect("nobody is asked yet")).await;
        assert_eq!(listed.is_ok(), requests > 1, "{status}: {listed:?}");
        assert_eq!(server.requests("").len(), requests, "{status}");
    }
}
