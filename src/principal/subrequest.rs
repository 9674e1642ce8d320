//! Identity by asking the backend.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use url::Url;

use super::{
    IdentityError, IdentityKey, Principal, SourceError, checked_url,
    fetch::{Client, Outage},
    header::single,
};

/// How long a refusal is believed: long enough to break a client's tight loop, too short to outlast a login.
const REFUSAL_LIFE: Duration = Duration::from_secs(1);

/// Answers remembered of each kind, acceptances and refusals.
const REMEMBERED: usize = 16 * 1024;

/// How the backend is asked: a GET with some of the client's headers.
#[derive(Debug, Clone)]
pub struct SubrequestSettings {
    /// The backend, `http` or `https`.
    pub base: Url,
    /// Path at the backend, which may have a query. It must answer 2xx to valid credentials, and nothing else.
    pub path: String,
    /// Client headers that are copied. If a request has none of them, there is no identity and the next source is asked.
    /// Default: `Authorization`, `Cookie`.
    pub headers: Vec<HeaderName>,
    /// How long the backend may take for the whole answer. Default: 2 s.
    pub timeout: Duration,
    /// How long an acceptance is believed for the same copied headers; zero asks each time. Default: 10 s.
    pub cache: Duration,
    /// Header of the backend's answer that is the identity. `None`: the copied headers are, so that a change in any of them
    /// (a rotated token, another cookie) makes another principal.
    pub identity_header: Option<HeaderName>,
}

impl SubrequestSettings {
    /// The defaults around a backend and a path.
    pub fn new(base: Url, path: impl Into<String>) -> Self {
        Self {
            base,
            path: path.into(),
            headers: vec![header::AUTHORIZATION, header::COOKIE],
            timeout: Duration::from_secs(2),
            cache: Duration::from_secs(10),
            identity_header: None,
        }
    }
}

/// A sub-request source, ready for requests.
pub(super) struct Checker {
    settings: SubrequestSettings,
    url: Url,
    client: Arc<Client>,
    accepted: Mutex<Remembered<Principal>>,
    refused: Mutex<Remembered<()>>,
    outage: Outage,
    /// Done when the operator was told that the backend accepts credentials without saying whose.
    told_unnamed: Once,
}

impl Checker {
    pub(super) fn new(settings: SubrequestSettings, client: Arc<Client>) -> Result<Self, SourceError> {
        checked_url(&settings.base)?;
        let no_path = || SourceError::Path(settings.path.clone());
        let url = settings.base.join(&settings.path).map_err(|_| no_path())?;
        // `//elsewhere` and full addresses would send the client's credentials to another host.
        if !settings.path.starts_with('/') || url.origin() != settings.base.origin() {
            return Err(no_path());
        }
        let of_connection = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
        let mut seen = HashSet::new();
        let is_bad = |name: &&HeaderName| of_connection.contains(name) || !seen.insert((*name).clone());
        let bad: Vec<_> = settings.headers.iter().filter(is_bad).cloned().collect();
        if settings.headers.is_empty() || !bad.is_empty() {
            return Err(SourceError::CopiedHeaders(bad));
        }
        let accepted = Mutex::new(Remembered::new(settings.cache, REMEMBERED));
        let refused = Mutex::new(Remembered::new(REFUSAL_LIFE.min(settings.cache), REMEMBERED));
        let (outage, told_unnamed) = (Outage::default(), Once::new());
        Ok(Self { settings, url, client, accepted, refused, outage, told_unnamed })
    }

    pub(super) async fn identify(
        &self,
        key: &IdentityKey,
        headers: &HeaderMap,
    ) -> Result<Option<Principal>, IdentityError> {
        let copied = self.copied(headers);
        if copied.is_empty() {
            return Ok(None);
        }
        let credentials: Vec<&[u8]> =
            copied.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
        // The keyed hash, so that no credential is kept.
        let known_as = key.digest("subrequest", &credentials);
        let now = Instant::now();
        if let Some(principal) = lock(&self.accepted).get(&known_as, now) {
            return Ok(Some(principal));
        }
        if lock(&self.refused).get(&known_as, now).is_some() {
            return Err(IdentityError::Unauthorized);
        }
        match self.ask(&copied).await {
            Ok(identity) => {
                let principal = match &identity {
                    Some(identity) => key.principal("subrequest identity", &self.settings.path, &[identity.as_bytes()]),
                    None => key.principal("subrequest", &self.settings.path, &credentials),
                };
                lock(&self.accepted).put(known_as, principal, Instant::now());
                Ok(Some(principal))
            }
            Err(error) => {
                if error == IdentityError::Unauthorized {
                    lock(&self.refused).put(known_as, (), Instant::now());
                }
                Err(error)
            }
        }
    }

    /// The client's headers that go to the backend, in configured order and without blank lines, so that those who send
    /// nothing do not share an identity. Cookies that came in several lines (HTTP/2) are joined, as HTTP/1.1 wants it
    /// (RFC 9113 §8.2.3).
    fn copied(&self, headers: &HeaderMap) -> HeaderMap {
        let mut copied = HeaderMap::new();
        for name in &self.settings.headers {
            let lines = headers.get_all(name).iter().filter(|line| !line.as_bytes().trim_ascii().is_empty());
            if *name == header::COOKIE {
                let joined = lines.map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
                if !joined.is_empty() {
                    copied.extend(HeaderValue::from_maybe_shared(joined).map(|cookies| (name.clone(), cookies)));
                }
                continue;
            }
            for line in lines {
                copied.append(name, line.clone());
            }
        }
        copied
    }

    /// The identity header of the backend's 2xx answer, if one is configured.
    async fn ask(&self, copied: &HeaderMap) -> Result<Option<HeaderValue>, IdentityError> {
        let answer = match self.client.get(&self.url, copied, self.settings.timeout).await {
            Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(self.unavailable(&format_args!("status {}", answer.status.as_u16())));
            }
            Ok(answer) => answer,
            Err(error) => return Err(self.unavailable(&error)),
        };
        if self.outage.ends() {
            tracing::info!("the backend answers identity sub-requests again");
        }
        if !answer.status.is_success() {
            return Err(IdentityError::Unauthorized);
        }
        let Some(name) = &self.settings.identity_header else { return Ok(None) };
        match single(&answer.headers, name) {
            Ok(Some(_)) => Ok(answer.headers.get(name).cloned()),
            _ => {
                self.told_unnamed.call_once(|| {
                    tracing::warn!(header = %name, "the backend accepted an identity sub-request but named nobody");
                });
                Err(IdentityError::Unauthorized)
            }
        }
    }

    fn unavailable(&self, error: &dyn std::fmt::Display) -> IdentityError {
        if self.outage.begins() {
            tracing::warn!(%error, "the backend does not answer identity sub-requests");
        }
        IdentityError::Unavailable
    }
}

fn lock<V>(remembered: &Mutex<Remembered<V>>) -> std::sync::MutexGuard<'_, Remembered<V>> {
    // Every operation leaves the map whole, so a panic elsewhere does no harm.
    remembered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers by the keyed hash of the credentials, each for the same time, at most `capacity` of them.
struct Remembered<V> {
    life: Duration,
    capacity: usize,
    answers: HashMap<[u8; 32], (V, Instant)>,
    /// Since all live equally long, the order of arrival is the order of expiry.
    arrivals: VecDeque<([u8; 32], Instant)>,
}

impl<V: Copy> Remembered<V> {
    fn new(life: Duration, capacity: usize) -> Self {
        Self { life, capacity, answers: HashMap::new(), arrivals: VecDeque::new() }
    }

    fn get(&self, key: &[u8; 32], now: Instant) -> Option<V> {
        let (answer, at) = self.answers.get(key)?;
        (now.saturating_duration_since(*at) < self.life).then_some(*answer)
    }

    fn put(&mut self, key: [u8; 32], answer: V, now: Instant) {
        if self.life.is_zero() {
            return;
        }
        while let Some((oldest, at)) = self.arrivals.front()
            && (self.arrivals.len() >= self.capacity || now.saturating_duration_since(*at) >= self.life)
        {
            // An answer that was renewed since has a later arrival of its own.
            if self.answers.get(oldest).is_some_and(|(_, renewed)| renewed == at) {
                self.answers.remove(oldest);
            }
            self.arrivals.pop_front();
        }
        self.answers.insert(key, (answer, now));
        self.arrivals.push_back((key, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_in_time_and_beyond_the_bound() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut remembered = Remembered::new(Duration::from_secs(10), 3);
        remembered.put([1; 32], 1, at(0));
        assert_eq!(remembered.get(&[1; 32], at(9)), Some(1));
        assert_eq!(remembered.get(&[1; 32], at(10)), None);
        assert_eq!(remembered.get(&[2; 32], at(0)), None);

        remembered.put([1; 32], 11, at(8));
        remembered.put([2; 32], 2, at(11));
        assert_eq!(remembered.get(&[1; 32], at(12)), Some(11), "the renewed answer outlives the first");

        for n in 3..=9 {
            remembered.put([n; 32], n, at(12));
            assert!(remembered.answers.len() <= 3 && remembered.arrivals.len() <= 3);
        }
        assert_eq!(remembered.get(&[6; 32], at(12)), None);
        assert_eq!(remembered.get(&[7; 32], at(12)), Some(7));

        remembered.put([10; 32], 10, at(100));
        assert_eq!(remembered.answers.len(), 1, "what has expired takes no memory");
    }

    #[test]
    fn nothing_is_remembered_when_the_cache_is_off() {
        let now = Instant::now();
        let mut remembered = Remembered::new(Duration::ZERO, 3);
        remembered.put([1; 32], 1, now);
        assert!(remembered.get(&[1; 32], now).is_none() && remembered.answers.is_empty());
    }
}
