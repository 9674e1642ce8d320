//! Identity from a claim of a verified token (JWT, RFC 7519).

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::Value;
use url::Url;

use super::{
    IdentityError, IdentityKey, Principal, SourceError, checked_url,
    fetch::Client,
    header::single,
    keyset::{COOLDOWN, KeySet, RemoteKeys},
};

/// Longer tokens are refused unread, in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// Shorter HS256 secrets can be guessed offline from any token (RFC 7518 §3.2), in bytes.
const ADVISED_SECRET: usize = 32;

const MAX_LEEWAY: Duration = Duration::from_secs(3600);

/// How tokens are found and verified.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Header that carries the token, with or without `Bearer`. Default: `Authorization`. With another scheme (`Basic …`)
    /// there is no token and the next source is asked.
    pub header: HeaderName,
    /// Claim that is the identity, a non-empty string or an integer: a dotted path (`user.id`) or, where names hold dots, a
    /// JSON pointer (`/https:~1~1example.com~1id`). Default: `sub`.
    pub claim: String,
    /// The key, which also pins the algorithm: what the token says of its algorithm is never believed.
    pub key: JwtKey,
    /// Issuers of which a token must name one (`iss`). Empty: any.
    pub issuers: Vec<String>,
    /// Audiences of which a token must name one (`aud`). Empty: only tokens without audience are accepted, since others are
    /// meant for somebody else (RFC 7519 §4.1.3).
    pub audiences: Vec<String>,
    /// How far the issuer's clock may be off, at most an hour. Default: 30 s.
    pub leeway: Duration,
}

impl JwtSettings {
    /// The defaults around a key.
    pub fn new(key: JwtKey) -> Self {
        Self {
            header: header::AUTHORIZATION,
            claim: "sub".to_owned(),
            key,
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(30),
        }
    }
}

/// What signatures are verified with.
#[derive(Clone)]
pub enum JwtKey {
    /// HS256 under this shared secret.
    Secret(Vec<u8>),
    /// RS256 under the keys of this JWKS file, read once.
    File(PathBuf),
    /// RS256 under the keys of this JWKS address.
    Url {
        /// Where the set is, `http` or `https`; redirects are not followed.
        url: Url,
        /// Age at which it is fetched again. A token with an unknown key id fetches it sooner, at most every 30 s.
        refresh: Duration,
    },
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Url { url, refresh } => write!(f, "Url({:?}, {refresh:?})", url.host_str().unwrap_or_default()),
        }
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is not a JWT, exceeds 64 KiB, names no algorithm (`none`), or demands an extension (`crit`).
    #[error("it is malformed")]
    Malformed,
    /// It is signed with another algorithm than the configured key's.
    #[error("its algorithm is not the configured one")]
    Algorithm,
    /// It names a key that is not in the key set, or none where the set has several.
    #[error("its key is unknown")]
    UnknownKey,
    /// The signature does not fit.
    #[error("its signature is wrong")]
    Signature,
    /// `exp` has passed.
    #[error("it has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("it is not valid yet")]
    NotYetValid,
    /// `iss` is not an accepted issuer.
    #[error("its issuer is not accepted")]
    Issuer,
    /// `aud` names no accepted audience.
    #[error("its audience is not accepted")]
    Audience,
    /// `exp`, a configured `iss` or `aud`, or the identity itself is missing or of the wrong type.
    #[error("a claim is missing")]
    Claim,
}

impl TokenFault {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Claim => "token_claim",
        }
    }
}

impl From<TokenFault> for IdentityError {
    fn from(fault: TokenFault) -> Self {
        Self::Invalid(fault)
    }
}

impl From<jsonwebtoken::errors::Error> for TokenFault {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidAlgorithm => Self::Algorithm,
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::NotYetValid,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::InvalidAudience => Self::Audience,
            ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Self::Claim,
            _ => Self::Malformed,
        }
    }
}

/// A JWT source, ready for requests.
pub(super) struct Verifier {
    header: HeaderName,
    /// The claim as JSON pointer.
    claim: String,
    /// What tells this source's principals from those of another JWT source.
    name: String,
    algorithm: Algorithm,
    keys: Keys,
    validation: Validation,
}

enum Keys {
    Secret(DecodingKey),
    File(KeySet),
    Url(Arc<RemoteKeys>),
}

impl Verifier {
    pub(super) fn new(
        settings: JwtSettings,
        client: &mut dyn FnMut() -> Result<Arc<Client>, SourceError>,
    ) -> Result<Self, SourceError> {
        let keys = match settings.key {
            JwtKey::Secret(secret) => Keys::Secret(shared_secret(&secret)?),
            JwtKey::File(path) => Keys::File(read_key_set(path)?),
            JwtKey::Url { url, refresh } => {
                checked_url(&url)?;
                Keys::Url(RemoteKeys::new(url, client()?, refresh, COOLDOWN))
            }
        };
        if settings.leeway > MAX_LEEWAY {
            return Err(SourceError::Leeway);
        }
        let algorithm = if matches!(keys, Keys::Secret(_)) { Algorithm::HS256 } else { Algorithm::RS256 };
        let mut validation = Validation::new(algorithm);
        validation.leeway = settings.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if !settings.issuers.is_empty() {
            validation.set_issuer(&settings.issuers);
            required.push("iss");
        }
        if !settings.audiences.is_empty() {
            validation.set_audience(&settings.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let claim = pointer(&settings.claim)?;
        let name = format!("{} {claim}", settings.header);
        Ok(Self { header: settings.header, claim, name, algorithm, keys, validation })
    }

    pub(super) async fn identify(
        &self,
        key: &IdentityKey,
        headers: &HeaderMap,
    ) -> Result<Option<Principal>, IdentityError> {
        let Some(token) = single(headers, &self.header)?.and_then(token) else { return Ok(None) };
        let claims = self.verified(token).await?;
        let (kind, identity) = match claims.pointer(&self.claim) {
            Some(Value::String(text)) if !text.trim().is_empty() => (&b"string"[..], text.clone()),
            Some(Value::Number(number)) if !number.is_f64() => (&b"integer"[..], number.to_string()),
            _ => return Err(TokenFault::Claim.into()),
        };
        // A subject is unique only within its issuer.
        let issuer = claims.get("iss").map(Value::to_string).unwrap_or_default();
        Ok(Some(key.principal("jwt", &self.name, &[issuer.as_bytes(), kind, identity.as_bytes()])))
    }

    /// The claims of a token after everything about it was checked.
    async fn verified(&self, token: &[u8]) -> Result<Value, IdentityError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenFault::Malformed.into());
        }
        let head = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Malformed)?;
        // Before the keys are looked up: such a token must not cause a fetch.
        if head.alg != self.algorithm {
            return Err(TokenFault::Algorithm.into());
        }
        // RFC 7515 §4.1.11: who does not understand a critical extension must refuse, and none is understood.
        if head.crit.is_some() {
            return Err(TokenFault::Malformed.into());
        }
        let kid = head.kid.as_deref();
        match &self.keys {
            Keys::Secret(secret) => self.decoded(token, std::iter::once(secret)),
            Keys::File(set) => self.decoded(token, set.candidates(kid)),
            Keys::Url(remote) => self.decoded(token, remote.for_token(kid).await?.candidates(kid)),
        }
    }

    fn decoded<'a>(&self, token: &[u8], keys: impl Iterator<Item = &'a DecodingKey>) -> Result<Value, IdentityError> {
        let mut fault = TokenFault::UnknownKey;
        for key in keys {
            match jsonwebtoken::decode::<Value>(token, key, &self.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => fault = error.into(),
            }
            // Another key of the same id may have signed it.
            if fault != TokenFault::Signature {
                break;
            }
        }
        Err(fault.into())
    }
}

/// The token in a header's value: what follows `Bearer`, or the whole value if it is one word. `None` for other schemes.
fn token(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    match value.iter().position(u8::is_ascii_whitespace) {
        Some(end) if value[..end].eq_ignore_ascii_case(b"bearer") => Some(value[end..].trim_ascii_start()),
        Some(_) => None,
        None => Some(value),
    }
}

/// A claim's path as JSON pointer (RFC 6901).
fn pointer(claim: &str) -> Result<String, SourceError> {
    let pointer = if claim.starts_with('/') {
        claim.to_owned()
    } else {
        claim.split('.').map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
    };
    if pointer.split('/').skip(1).any(str::is_empty) {
        return Err(SourceError::Claim(claim.to_owned()));
    }
    Ok(pointer)
}

fn shared_secret(secret: &[u8]) -> Result<DecodingKey, SourceError> {
    if secret.is_empty() {
        return Err(SourceError::NoSecret);
    }
    if secret.len() < ADVISED_SECRET {
        tracing::warn!("the secret of HS256 tokens is shorter than {ADVISED_SECRET} bytes and can be guessed");
    }
    Ok(DecodingKey::from_secret(secret))
}

fn read_key_set(path: PathBuf) -> Result<KeySet, SourceError> {
    match std::fs::read(&path) {
        Ok(json) => KeySet::parse(&json).map_err(|error| SourceError::KeySet { path, reason: error.to_string() }),
        Err(source) => Err(SourceError::KeySetFile { path, source }),
    }
}
