//! The way to a bucket: credentials, time limits, and how often something is tried.

use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, environment, profile};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, ProvideCredentials as _, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::{Builder, tls};

use super::failure::chain;
use super::location::{Addressing, Location};
use super::tries::Answers;
use crate::object::ObjectError;

/// The region of a bucket of which nobody says where it is, as in Nix.
const REGION: &str = "us-east-1";

/// Connections that are kept for the next requests.
const IDLE_CONNECTIONS: usize = 64;

/// How long one waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the answer to one request, and for the next bytes of a body.
    pub attempt: Duration,
    /// For a request's success, however often it is tried.
    pub total: Duration,
    /// For a sign of life of whoever holds the lease on a bucket that only one gate may write.
    pub lease: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [connect, attempt, total, lease] = [5, 30, 120, 60].map(Duration::from_secs);
        Self { connect, attempt, total, lease }
    }
}

/// Whether requests are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Signed,
    Anonymous,
}

/// Makes a client for a bucket. Where there are no credentials at all, it reads as anybody may.
pub(super) async fn client(
    location: &Location,
    patience: Patience,
    credentials: Option<Credentials>,
) -> Result<(Client, Identity), ObjectError> {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let http: SharedHttpClient =
        Builder::new().tls_provider(provider).pool_max_idle_per_host(IDLE_CONNECTIONS).build_https();
    let region = RegionProviderChain::first_try(location.region.clone().map(Region::new))
        .or_else(environment::EnvironmentVariableRegionProvider::new());
    let mut profile_region = profile::ProfileFileRegionProvider::builder();
    if let Some(name) = &location.profile {
        profile_region = profile_region.profile_name(name);
    }
    let region = region.or_else(profile_region.build()).or_else(REGION).region().await;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).http_client(http.clone());
    if let Some(name) = &location.profile {
        // Who names a profile means it, whatever the environment says besides.
        let means = ProviderConfig::without_region().with_region(region).with_http_client(http.clone());
        let named = ProfileFileCredentialsProvider::builder().configure(&means).profile_name(name).build();
        loader = loader.profile_name(name).credentials_provider(named);
    }
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    let mut shared = loader.load().await;
    let identity = match shared.credentials_provider() {
        Some(provider) => identity(location, &provider).await?,
        None => Identity::Anonymous,
    };
    if identity == Identity::Anonymous {
        // As long as there is somebody to ask for credentials, the SDK would ask, and fail.
        let mut none = shared.into_builder();
        none.set_credentials_provider(None);
        shared = none.build();
    }
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(patience.connect)
        .read_timeout(patience.attempt)
        .operation_attempt_timeout(patience.attempt)
        .operation_timeout(patience.total)
        .build();
    // The deadline ends the tries, not their number: it comes long before so many.
    let retries = RetryConfig::standard()
        .with_max_attempts(200)
        .with_initial_backoff(Duration::from_millis(50))
        .with_max_backoff(Duration::from_secs(5).min(patience.total / 8));
    let unlimited = TokenBucket::builder().capacity(1 << 20).refill_rate(1e6).build();
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries)
        .retry_partition(RetryPartition::custom("nix-quorum").token_bucket(unlimited).build())
        .retry_classifier(Answers)
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .upload_enabled(true)
                .download_enabled(false)
                .grace_period(patience.attempt)
                .build(),
        )
        // Not every provider knows the checksums that AWS adds; signed requests carry a SHA-256 of their bodies anyway.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(location.addressing == Addressing::Path);
    if let Some(endpoint) = &location.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if identity == Identity::Anonymous {
        config = config.allow_no_auth();
    }
    Ok((Client::from_conf(config.build()), identity))
}

/// Finds out whether there are credentials. That there are none is no error; that they cannot be had is one.
async fn identity(location: &Location, provider: &SharedCredentialsProvider) -> Result<Identity, ObjectError> {
    match provider.provide_credentials().await {
        Ok(_) => Ok(Identity::Signed),
        Err(CredentialsError::CredentialsNotLoaded(_)) if location.profile.is_none() => Ok(Identity::Anonymous),
        Err(error) => {
            let hint = match &location.profile {
                Some(name) => format!(
                    "profile={name} in the store's URI names a profile in ~/.aws/config or ~/.aws/credentials, or where \
                     AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE say"
                ),
                None => {
                    "a public bucket needs none: set AWS_EC2_METADATA_DISABLED=true where no metadata service answers"
                        .into()
                }
            };
            let why = format!("{} ({hint})", chain(&error));
            Err(ObjectError::Io {
                action: "get credentials for",
                place: format!("s3://{}", location.bucket),
                source: std::io::Error::other(why),
            })
        }
    }
}
