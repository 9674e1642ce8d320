//! The public keys of an issuer (JWKS, RFC 7517), from a file or kept fresh from a URL.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{
    IdentityError,
    fetch::{Client, FetchError, Outage},
};

/// Shortest RSA modulus that is trusted (RFC 7518 §3.3).
const MIN_MODULUS_BITS: usize = 2048;

/// How long a fetch of the key set may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Least time between two fetches, however many tokens name unknown keys: those can be made up.
pub(super) const COOLDOWN: Duration = Duration::from_secs(30);

/// The same as long as no key set was ever fetched and therefore no token can be verified.
const COOLDOWN_WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// The keys of a set that can verify RS256 signatures.
pub(super) struct KeySet(Vec<(Option<String>, DecodingKey)>);

/// A text is not a key set, or not one to verify with.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    /// The text is not JSON with a list `keys`.
    #[error("it is not a key set: {0}")]
    Syntax(#[from] serde_json::Error),
    /// No RSA key of at least 2048 bits for RS256 signatures is in it.
    #[error("it has no RSA key of at least {MIN_MODULUS_BITS} bits for RS256 signatures")]
    NoKey,
}

impl KeySet {
    /// Takes the usable keys and skips the others: a set may hold keys for other purposes, and symmetric ones.
    pub(super) fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<serde_json::Value>,
        }
        let raw: Raw = serde_json::from_slice(json)?;
        let keys: Vec<_> = raw.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self(keys)) }
    }

    /// The keys a token may be signed with: those of its key id; without key id the only one there is.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let only = self.0.len() == 1;
        let matches = move |id: &Option<String>| if kid.is_some() { id.as_deref() == kid } else { only };
        self.0.iter().filter(move |(id, _)| matches(id)).map(|(_, key)| key)
    }
}

fn usable(key: serde_json::Value) -> Option<(Option<String>, DecodingKey)> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    let AlgorithmParameters::RSA(parameters) = &key.algorithm else { return None };
    let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let rs256 = matches!(key.common.key_algorithm, None | Some(KeyAlgorithm::RS256));
    let modulus = BASE64URL_NOPAD.decode(parameters.n.as_bytes()).ok()?;
    let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
    if !signs || !rs256 || bits < MIN_MODULUS_BITS {
        return None;
    }
    Some((key.common.key_id.clone(), DecodingKey::from_jwk(&key).ok()?))
}

/// A key set behind a URL: fetched when first needed, when it has grown old, and when a token names a key it lacks.
pub(super) struct RemoteKeys {
    url: Url,
    client: Arc<Client>,
    /// Age at which the set is fetched again, in the background.
    refresh: Duration,
    cooldown: Duration,
    current: ArcSwapOption<Fetched>,
    /// When the last fetch began. Locked while one runs, so that there is never a second one.
    last_attempt: Mutex<Option<Instant>>,
    outage: Outage,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
}

/// Why a fetch brought no new key set.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    /// No complete answer came.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The answer is not 200.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The answer's body cannot be used.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

impl RemoteKeys {
    pub(super) fn new(url: Url, client: Arc<Client>, refresh: Duration, cooldown: Duration) -> Arc<Self> {
        Arc::new(Self {
            url,
            client,
            refresh,
            cooldown,
            current: ArcSwapOption::empty(),
            last_attempt: Mutex::new(None),
            outage: Outage::default(),
        })
    }

    /// The set to verify a token with this key id. Old keys are better than none, so a failing fetch leaves them.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Unavailable`] if no set was ever fetched.
    pub(super) async fn for_token(self: &Arc<Self>, kid: Option<&str>) -> Result<Arc<KeySet>, IdentityError> {
        if let Some(fetched) = self.current.load_full()
            && fetched.keys.candidates(kid).next().is_some()
        {
            if fetched.at.elapsed() >= self.refresh && self.may_fetch() {
                self.spawn_refresh();
            }
            return Ok(Arc::clone(&fetched.keys));
        }
        // A task of its own, so that a client that leaves does not break off the fetch others wait for.
        if self.spawn_refresh().await.is_err() {
            tracing::error!(host = self.url.host_str(), "fetching the key set panicked");
        }
        self.current.load().as_ref().map(|fetched| Arc::clone(&fetched.keys)).ok_or(IdentityError::Unavailable)
    }

    /// Whether a refresh would fetch; false while one runs.
    fn may_fetch(&self) -> bool {
        self.last_attempt.try_lock().is_ok_and(|last| self.has_cooled_down(*last))
    }

    fn has_cooled_down(&self, last_attempt: Option<Instant>) -> bool {
        let without_keys = self.current.load().is_none();
        let cooldown = if without_keys { self.cooldown.min(COOLDOWN_WITHOUT_KEYS) } else { self.cooldown };
        last_attempt.is_none_or(|at| at.elapsed() >= cooldown)
    }

    fn spawn_refresh(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.refresh_once().await })
    }

    /// Waits for a running fetch; fetches unless one began within the cool-down.
    async fn refresh_once(&self) {
        let mut last_attempt = self.last_attempt.lock().await;
        if !self.has_cooled_down(*last_attempt) {
            return;
        }
        *last_attempt = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                self.current.store(Some(Arc::new(Fetched { keys: Arc::new(keys), at: Instant::now() })));
                if self.outage.ends() {
                    tracing::info!(host = self.url.host_str(), "the key set can be fetched again");
                }
            }
            Err(error) => {
                if self.outage.begins() {
                    tracing::warn!(host = self.url.host_str(), %error, "cannot fetch the key set; going on without");
                }
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, RefreshError> {
        let answer = self.client.get(&self.url, &HeaderMap::new(), FETCH_TIMEOUT).await?;
        if answer.status != StatusCode::OK {
            return Err(RefreshError::Status(answer.status));
        }
        Ok(KeySet::parse(&answer.body)?)
    }
}
