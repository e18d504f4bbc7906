//! Requests that are made again: counted, and said once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use aws_sdk_s3::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextMut, FinalizerInterceptorContextRef,
    InterceptorContext,
};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::failure::{chain, is_page, is_trouble};

/// What the SDK says of an attempt that ended because the time for all of them had passed.
const DEADLINE: &str = "operation timeout (all attempts";

/// Requests that were made again since the program started.
static RETRIED: AtomicU64 = AtomicU64::new(0);

/// Returns how many requests to S3 were made again since the program started.
#[must_use]
pub fn requests_retried() -> u64 {
    RETRIED.load(Ordering::Relaxed)
}

/// Notes that something was tried again, outside of the SDK's own doing.
pub(super) fn note_retry() {
    RETRIED.fetch_add(1, Ordering::Relaxed);
}

/// Follows one request through its attempts. When it is dropped, it says how many there were, if there was more than one.
#[derive(Debug, Clone)]
pub(super) struct Tries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    what: &'static str,
    place: String,
    begun: Instant,
    attempts: AtomicU32,
    last: Mutex<Option<String>>,
    /// What the provider calls itself.
    server: Mutex<Option<String>>,
    /// Attempts of which nobody knows what they did.
    unclear: AtomicU32,
    /// The status of the last answer; 0 where there was none.
    status: AtomicU16,
}

impl Tries {
    /// Starts to follow a request.
    pub(super) fn of(what: &'static str, place: impl Into<String>) -> Self {
        let (attempts, last, server) = (AtomicU32::new(0), Mutex::new(None), Mutex::new(None));
        let (begun, unclear, status) = (Instant::now(), AtomicU32::new(0), AtomicU16::new(0));
        Self(Arc::new(Inner { what, place: place.into(), begun, attempts, last, server, unclear, status }))
    }

    /// Returns how often it was made.
    pub(super) fn count(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Whether an attempt may have done its work, although nobody said so: there was no answer, or one of a provider in trouble.
    pub(super) fn are_unclear(&self) -> bool {
        self.0.unclear.load(Ordering::Relaxed) > 0
    }

    /// Returns what went wrong last, if anything did.
    pub(super) fn last(&self) -> Option<String> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what the provider called itself last.
    pub(super) fn server(&self) -> Option<String> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the status of the answer to the last attempt that ended; none where there was no answer.
    pub(super) fn status(&self) -> Option<u16> {
        Some(self.0.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    pub(super) fn seconds(&self) -> u64 {
        self.0.begun.elapsed().as_secs()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let attempts = *self.attempts.get_mut();
        if attempts > 1 {
            let why = self.last.get_mut().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            let milliseconds = self.begun.elapsed().as_millis();
            tracing::warn!(attempts, milliseconds, why, "had to {} {} more than once", self.what, self.place);
        }
    }
}

impl Intercept for Tries {
    fn name(&self) -> &'static str {
        "Tries"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.0.attempts.fetch_add(1, Ordering::Relaxed) > 0 {
            note_retry();
        }
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.count() > 1
            && let Some(response) = context.response_mut()
        {
            response.add_extension(Repeated);
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let status = context.response().map_or(0, |response| response.status().as_u16());
        if let Some(Err(error)) = context.output_or_error() {
            if !matches!(status, 300..500) {
                self.0.unclear.fetch_add(1, Ordering::Relaxed);
            }
            let why = chain(error);
            // What the deadline interrupts says nothing of its own.
            if why.contains(DEADLINE) && self.last().is_some() {
                return Ok(());
            }
            *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        self.0.status.store(status, Ordering::Relaxed);
        let server = context.response().and_then(|response| response.headers().get("server"));
        *self.0.server.lock().unwrap_or_else(PoisonError::into_inner) = server.map(str::to_owned);
        Ok(())
    }
}

/// Marks the answer to an attempt that was not the first.
#[derive(Debug, Clone, Copy)]
struct Repeated;

/// Tells which answers ask for another attempt, beside those that the SDK knows: 409, where another request on the same object
/// came in the way, 429, and trouble above 504. What is no S3 is not asked again; who is refused is asked again once, since the SDK
/// then signs by the provider's clock.
#[derive(Debug)]
pub(super) struct Answers;

impl ClassifyRetry for Answers {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(response) = context.response() else { return RetryAction::NoActionIndicated };
        match response.status().as_u16() {
            409 => RetryAction::transient_error(),
            429 => RetryAction::throttling_error(),
            // Of those up to 504 the SDK also knows how long to wait.
            status @ 505.. if is_trouble(status) => RetryAction::transient_error(),
            403 if response.extension::<Repeated>().is_some() => RetryAction::RetryForbidden,
            _ if is_page(response) && !matches!(context.output_or_error(), Some(Ok(_))) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Answers"
    }
}
