//! Requests that are made again: counted, and said once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use aws_sdk_s3::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::failure::chain;

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
}

impl Tries {
    /// Starts to follow a request.
    pub(super) fn of(what: &'static str, place: impl Into<String>) -> Self {
        let (attempts, last, server) = (AtomicU32::new(0), Mutex::new(None), Mutex::new(None));
        Self(Arc::new(Inner { what, place: place.into(), begun: Instant::now(), attempts, last, server }))
    }

    /// Returns how often it was made.
    pub(super) fn count(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Returns what went wrong last, if anything did.
    pub(super) fn last(&self) -> Option<String> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what the provider called itself last.
    pub(super) fn server(&self) -> Option<String> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let server = context.response().and_then(|response| response.headers().get("server"));
        *self.0.server.lock().unwrap_or_else(PoisonError::into_inner) = server.map(str::to_owned);
        if let Some(Err(error)) = context.output_or_error() {
            let why = chain(error);
            *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        Ok(())
    }
}

/// Makes a request again that another one on the same object came in the way of: S3 says 409 then.
#[derive(Debug)]
pub(super) struct Conflicts;

impl ClassifyRetry for Conflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(409) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Conflicts"
    }
}
