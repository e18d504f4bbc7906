//! What a provider's refusals mean, and what to change.

use std::io::{self, ErrorKind};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::tries::Tries;
use crate::object::ObjectError;

/// What to do where there is no answer.
const CHECK: &str = "check the network, and the endpoint in the store's URI";

/// A request's failure.
pub(super) type Failure<E> = SdkError<E, HttpResponse>;

/// Returns the status of the answer that a request failed with; none where there was no answer.
pub(super) fn status<E>(failure: &Failure<E>) -> Option<u16> {
    failure.raw_response().map(|response| response.status().as_u16())
}

/// Whether an answer says that an object is not there. A bucket that is missing is another thing.
pub(super) fn is_absent<E: ProvideErrorMetadata>(failure: &Failure<E>) -> bool {
    status(failure) == Some(404) && failure.code() != Some("NoSuchBucket") && !is_foreign(failure)
}

/// Whether what answered is no S3, which writes XML. Where S3 is busy or down, others may answer in its place.
fn is_foreign<E: ProvideErrorMetadata>(failure: &Failure<E>) -> bool {
    let answered = |response| is_page(response) || (status(failure) == Some(404) && has_body(response));
    failure.code().is_none() && failure.raw_response().is_some_and(answered)
}

/// Whether an answer is a page for people, and no sign of trouble that passes.
pub(super) fn is_page(response: &HttpResponse) -> bool {
    let is_html = response.headers().get("content-type").is_some_and(|stated| stated.starts_with("text/html"));
    is_html && has_body(response) && !matches!(response.status().as_u16(), 408 | 429 | 500..)
}

fn has_body(response: &HttpResponse) -> bool {
    response.body().bytes().is_some_and(|body| !body.is_empty())
}

/// Whether a request that was answered so, or not at all, may succeed the next time.
pub(super) fn may_pass(status: Option<u16>) -> bool {
    status.is_none_or(|status| matches!(status, 408 | 409 | 429) || is_trouble(status))
}

/// Whether a server says that it cannot answer now: not that it never will (501), nor that it cannot be spoken to so (505). What
/// stands in front of a provider has numbers of its own for that.
///
/// Source: RFC 9110, section 15.6; Cloudflare, "5xx errors", 520 to 530.
pub(super) fn is_trouble(status: u16) -> bool {
    matches!(status, 500 | 502..=504 | 506..=599)
}

/// Whether an answer says to come again later.
pub(super) fn is_put_off(status: Option<u16>) -> bool {
    matches!(status, Some(409 | 429 | 503))
}

/// Makes an error of a failure: what was to be done, to what, why not, and what would help.
pub(super) fn failed<E>(action: &'static str, place: &str, tries: &Tries, failure: &Failure<E>) -> ObjectError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (kind, why) = explain(tries, failure);
    ObjectError::Io { action, place: place.to_owned(), source: io::Error::new(kind, why) }
}

fn explain<E>(tries: &Tries, failure: &Failure<E>) -> (ErrorKind, String)
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let again = |kind, why: String| {
        let (count, seconds) = (tries.count(), tries.seconds());
        (kind, if count > 1 { format!("{why} (tried {count} times in {seconds} s)") } else { why })
    };
    let Some(response) = failure.raw_response() else {
        let last = tries.last();
        return match failure {
            SdkError::TimeoutError(_) => {
                let why = last.unwrap_or_else(|| "no answer".into());
                let why = match tries.status() {
                    Some(status) => format!("the provider answers {status}: {why}"),
                    None => format!("the provider did not answer in time: {why}: {CHECK}"),
                };
                again(ErrorKind::TimedOut, why)
            }
            SdkError::ConstructionFailure(_) => {
                (ErrorKind::Other, format!("there are no usable credentials: {}", chain(failure)))
            }
            _ => again(ErrorKind::NotConnected, format!("the provider cannot be reached: {}: {CHECK}", chain(failure))),
        };
    };
    let status = response.status().as_u16();
    let code = failure.code().unwrap_or_default();
    let said = failure.message().map(|said| format!(" ({})", one_line(said))).unwrap_or_default();
    let region = response.headers().get("x-amz-bucket-region");
    let advice = match (code, status) {
        _ if is_foreign(failure) => {
            let why = format!("what answers {status} is no S3: correct the endpoint in the store's URI");
            return (ErrorKind::Other, why);
        }
        ("NoSuchBucket", _) => {
            "there is no such bucket: create it, or correct its name or the endpoint in the store's URI".into()
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, 301 | 307) => match region.or_else(|| expected_region(failure.message())) {
            Some(region) => format!("the bucket is in another region: give region={region} in the store's URI"),
            None => "the bucket is in another region: give region=… in the store's URI".into(),
        },
        // To a request without a body of its own, S3 answers without one.
        ("" | "BadRequest", 400) if region.is_some() => {
            format!("the bucket is in another region: give region={} in the store's URI", region.unwrap_or_default())
        }
        ("InvalidStorageClass", _) => {
            "the provider does not have this storage class: change storage-class in the store's URI, or leave it out"
                .into()
        }
        ("InvalidAccessKeyId" | "NotSignedUp", _) => {
            "the provider does not know the access key: check AWS_ACCESS_KEY_ID, or the profile".into()
        }
        ("SignatureDoesNotMatch", _) => {
            "the secret key is not that of the access key: check AWS_SECRET_ACCESS_KEY, or the profile".into()
        }
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken", _) => {
            "the session token has expired or is not valid: get new credentials".into()
        }
        ("RequestTimeTooSkewed" | "RequestExpired", _) => {
            let theirs = response.headers().get("date").map(|date| format!(": it is {date} there")).unwrap_or_default();
            format!("this machine's clock is too far from the provider's{theirs}; set it")
        }
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | (_, 401 | 403) => {
            let allow = "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads";
            let why = format!("access is denied{said}: the credentials need {allow} on this bucket");
            return (ErrorKind::PermissionDenied, why);
        }
        (_, 429 | 500..) => {
            return again(ErrorKind::ResourceBusy, format!("the provider answers {status} {code}{said}"));
        }
        _ => return again(ErrorKind::Other, format!("the provider answers {status} {code}: {}", chain(failure))),
    };
    (ErrorKind::Other, format!("{advice}{said}"))
}

/// Takes the region out of `… the region 'us-east-1' is wrong; expecting 'eu-west-1'`.
fn expected_region(message: Option<&str>) -> Option<&str> {
    message?.split_once("expecting '")?.1.split_once('\'').map(|(region, _)| region)
}

/// Says what an error is, and what caused it, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = one_line(&error.to_string());
        if !said.is_empty() && words.iter().all(|before| !before.contains(&said)) {
            words.push(said);
        }
        next = error.source();
    }
    words.join(": ")
}

/// What a provider says is shown on one line, and not at any length.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_passes_and_refusals_do_not() {
        for status in [500, 502, 503, 504, 507, 520, 522, 526, 530, 599] {
            assert!(is_trouble(status) && may_pass(Some(status)), "{status}");
        }
        for status in [200, 301, 400, 403, 404, 412, 416, 501, 505, 600] {
            assert!(!is_trouble(status) && !may_pass(Some(status)), "{status}");
        }
        for status in [408, 409, 429] {
            assert!(!is_trouble(status) && may_pass(Some(status)), "{status}");
        }
        assert!(may_pass(None));
    }
}
