//! Where a bucket is and how it is used: Nix's own `s3://` URIs, with its parameters in its meanings.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// The smallest part of an upload but the last, in bytes: what S3 allows.
const MIN_PART: u64 = 5 << 20;

/// The largest part, in bytes. S3 allows 5 GiB; parts are held in memory.
const MAX_PART: u64 = 256 << 20;

/// From how many bytes on an object goes up in parts, unless told otherwise. What has fewer waits in memory until it is
/// published, which is why this is less than Nix's 100 MiB.
const THRESHOLD: u64 = 8 << 20;

/// The highest threshold, in bytes: what waits in memory has to fit there.
const MAX_THRESHOLD: u64 = 256 << 20;

/// The parameters there are.
const PARAMETERS: [&str; 9] = [
    "region",
    "endpoint",
    "scheme",
    "profile",
    "addressing-style",
    "storage-class",
    "multipart-upload",
    "multipart-chunk-size",
    "multipart-threshold",
];

/// Storage classes whose objects can be read at once.
const STORAGE_CLASSES: [&str; 6] =
    ["STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"];

/// Why a text is no location. Whoever wrote it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{uri:?}: {why}")]
pub struct LocationError {
    uri: String,
    why: String,
}

/// How a bucket's name becomes part of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Virtual,
}

/// A bucket, and how it is reached and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The bucket's name.
    pub bucket: String,
    /// Its region; none where the environment or the profile says it.
    pub region: Option<String>,
    /// `scheme://host[:port]` of the provider; none for AWS.
    pub endpoint: Option<String>,
    /// Whose credentials; none for the environment's.
    pub profile: Option<String>,
    /// How its name becomes part of its address.
    pub addressing: Addressing,
    /// The storage class of what is written; none for the bucket's own.
    pub storage_class: Option<String>,
    /// Bytes in one part of an upload in parts.
    pub chunk_size: u64,
    /// From how many bytes on an object goes up in parts.
    pub threshold: u64,
}

impl Location {
    /// Parses `s3://BUCKET[?NAME=VALUE&…]`.
    ///
    /// # Errors
    /// When it is no such URI, or a parameter is unknown or has no such value.
    ///
    /// Source: Nix `src/libstore/include/nix/store/s3-binary-cache-store.hh`.
    pub fn parse(uri: &str) -> Result<Self, LocationError> {
        let error = |why: String| LocationError { uri: uri.to_owned(), why };
        let rest = uri.strip_prefix("s3://").ok_or_else(|| error("expected s3://BUCKET".into()))?;
        let (bucket, query) = rest.split_once('?').unwrap_or((rest, ""));
        let bucket = bucket.strip_suffix('/').unwrap_or(bucket);
        if bucket.contains('/') {
            return Err(error("a store is a whole bucket: expected s3://BUCKET, without a path".into()));
        }
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fine) {
            let why = format!("{bucket:?} is no bucket: its name has 3 to 63 of the characters a-z, 0-9, '.' and '-'");
            return Err(error(why));
        }
        let mut parameters = parameters(query).map_err(error)?;
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let scheme = take("scheme").unwrap_or_else(|| "https".into());
        let endpoint = take("endpoint").map(|endpoint| match endpoint.split_once("://") {
            Some(_) => endpoint,
            None => format!("{scheme}://{endpoint}"),
        });
        let endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        let known = |endpoint: &String| endpoint.starts_with("https://") || endpoint.starts_with("http://");
        if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| !known(endpoint)) {
            return Err(error(format!("endpoint {endpoint:?}: expected http:// or https://")));
        }
        let endpoint = endpoint.or_else(|| (scheme == "http").then(|| "http://s3.amazonaws.com".into()));
        let addressing = match take("addressing-style").as_deref() {
            Some("path") => Addressing::Path,
            Some("virtual") if bucket.contains('.') => {
                return Err(error("a bucket with a dot in its name has no virtual-hosted address".into()));
            }
            Some("virtual") => Addressing::Virtual,
            Some("auto") | None if endpoint.is_some() || bucket.contains('.') => Addressing::Path,
            Some("auto") | None => Addressing::Virtual,
            Some(other) => {
                return Err(error(format!("addressing-style {other:?}: expected auto, path or virtual")));
            }
        };
        let storage_class = take("storage-class");
        if let Some(class) = storage_class.as_ref().filter(|class| !STORAGE_CLASSES.contains(&class.as_str())) {
            let known = STORAGE_CLASSES.join(", ");
            return Err(error(format!("storage-class {class:?}: what cannot be read at once is no store: {known}")));
        }
        if let Some(other) = take("multipart-upload").filter(|value| value != "true") {
            return Err(error(format!("multipart-upload {other:?}: what is large always goes up in parts")));
        }
        let mut size =
            |name: &str, default: u64, range: std::ops::RangeInclusive<u64>| match take(name) {
                None => Ok(default),
                Some(text) => text.parse().ok().filter(|size| range.contains(size)).ok_or_else(|| {
                    error(format!("{name} {text:?}: expected bytes, {} to {}", range.start(), range.end()))
                }),
            };
        let chunk_size = size("multipart-chunk-size", MIN_PART, MIN_PART..=MAX_PART)?;
        let threshold = size("multipart-threshold", THRESHOLD, 0..=MAX_THRESHOLD)?;
        let (region, profile) = (take("region"), take("profile"));
        if let Some(unknown) = parameters.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
            return Err(error(format!("unknown parameter {unknown:?}: there are {}", PARAMETERS.join(", "))));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            region,
            endpoint,
            profile,
            addressing,
            storage_class,
            chunk_size,
            threshold,
        })
    }
}

fn parameters(query: &str) -> Result<BTreeMap<String, String>, String> {
    let mut parameters = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, found {pair:?}"))?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let (Ok(name), Ok(value)) = (decode(name), decode(value)) else {
            return Err(format!("{pair:?} is not UTF-8"));
        };
        if parameters.insert(name.clone(), value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_mean_what_they_mean_in_nix() {
        let parse = |text: &str| Location::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let plain = parse("s3://cache");
        assert_eq!(plain.bucket, "cache");
        assert_eq!(
            (&plain.region, &plain.endpoint, &plain.profile, &plain.storage_class),
            (&None, &None, &None, &None)
        );
        assert_eq!((plain.addressing, plain.chunk_size), (Addressing::Virtual, 5 << 20));
        let full = parse(
            "s3://my-cache?region=eu-west-1&endpoint=minio.example:9000&scheme=http&profile=ci&storage-class=STANDARD_IA\
             &multipart-chunk-size=16777216&multipart-threshold=33554432&addressing-style=virtual",
        );
        assert_eq!(full.endpoint.as_deref(), Some("http://minio.example:9000"));
        assert_eq!((full.region.as_deref(), full.profile.as_deref()), (Some("eu-west-1"), Some("ci")));
        assert_eq!((full.addressing, full.storage_class.as_deref()), (Addressing::Virtual, Some("STANDARD_IA")));
        assert_eq!((full.chunk_size, full.threshold), (16 << 20, 32 << 20));
        let endpoint = parse("s3://cache?endpoint=http%3A%2F%2Flocalhost:9000/");
        assert_eq!(endpoint.endpoint.as_deref(), Some("http://localhost:9000"));
        assert_eq!(endpoint.addressing, Addressing::Path);
        assert_eq!(parse("s3://with.dots").addressing, Addressing::Path);
        assert_eq!(parse("s3://cache?endpoint=e&scheme=https").endpoint.as_deref(), Some("https://e"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_said() {
        let cases = [
            ("file:///a", "expected s3://BUCKET"),
            ("s3://", "is no bucket"),
            ("s3://ab", "is no bucket"),
            ("s3://Cache", "is no bucket"),
            ("s3://cache/prefix", "without a path"),
            ("s3://cache?regoin=x", "unknown parameter \"regoin\""),
            ("s3://cache?region", "expected NAME=VALUE"),
            ("s3://cache?region=a&region=b", "region is given twice"),
            ("s3://cache?storage-class=GLACIER", "what cannot be read at once is no store"),
            ("s3://cache?multipart-chunk-size=1", "expected bytes, 5242880 to"),
            ("s3://cache?multipart-threshold=lots", "expected bytes, 0 to"),
            ("s3://cache?multipart-upload=false", "goes up in parts"),
            ("s3://cache?addressing-style=side", "expected auto, path or virtual"),
            ("s3://a.b.c?addressing-style=virtual", "no virtual-hosted address"),
            ("s3://cache?endpoint=ftp://x", "expected http:// or https://"),
            ("s3://cache?region=%ff", "is not UTF-8"),
        ];
        for (uri, says) in cases {
            let error = Location::parse(uri).expect_err(uri).to_string();
            assert!(error.contains(says) && error.contains(uri), "{uri}: {error}");
        }
    }
}
