//! Keyed hashes: what principals and session keys are made of.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use data_encoding::HEXLOWER;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use subtle::ConstantTimeEq;

/// Who started a turn or asks for one: the keyed hash of an identity, which it does not reveal.
///
/// Equality takes the same time wherever two principals differ. [`fmt::Debug`] shows only the beginning.
#[derive(Clone, Copy)]
pub struct Principal([u8; 32]);

impl Principal {
    /// The hash itself, as stores keep it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits, the form kept in a store. [`FromStr`] reads it back.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({}…)", HEXLOWER.encode(&self.0[..3]))
    }
}

/// The text is not what [`Principal::to_hex`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a principal: 64 lower-case hexadecimal digits expected")]
pub struct NotAPrincipal;

impl FromStr for Principal {
    type Err = NotAPrincipal;

    fn from_str(hex: &str) -> Result<Self, NotAPrincipal> {
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| NotAPrincipal)?;
        bytes.try_into().map(Self).map_err(|_| NotAPrincipal)
    }
}

/// Index key of a session: the keyed hash of what the client calls it, inside its principal's namespace.
///
/// [`fmt::Debug`] shows only the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// The hash itself, as stores keep it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Slot tag of the session's turns, for [`TurnId::new`](crate::sse::TurnId::new).
    pub fn slot_tag(&self) -> [u8; 5] {
        let mut tag = [0; 5];
        tag.copy_from_slice(&self.0[..5]);
        tag
    }

    /// 64 hexadecimal digits, the form used in a store's keys.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({}…)", HEXLOWER.encode(&self.0[..3]))
    }
}

/// The secret behind every hash of this module (HMAC-SHA256). Nodes that share turns must share it.
#[derive(Clone)]
pub struct IdentityKey(hmac::Key);

impl IdentityKey {
    /// Makes the key from a configured or stored secret of any length.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A key nobody else has: good for one node whose turns end with it.
    pub fn random() -> Self {
        Self::from_secret(&Self::random_secret())
    }

    /// A fresh secret, to be agreed on through the store and then given to [`IdentityKey::from_secret`].
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub fn random_secret() -> [u8; 32] {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).expect("the operating system provides randomness");
        secret
    }

    /// Names a session in its principal's namespace; requests without identity share one namespace of their own.
    pub fn session_key(&self, principal: Option<&Principal>, session: &str) -> SessionKey {
        let namespace = principal.map_or(&[][..], |principal| &principal.0);
        SessionKey(self.digest("session", &[namespace, session.as_bytes()]))
    }

    /// Names a start by what it is recognised by, inside its principal's namespace (see `turn::admission`).
    pub fn mark(&self, principal: Option<&Principal>, parts: &[&[u8]]) -> [u8; 32] {
        let namespace = principal.map_or(&[][..], |principal| &principal.0);
        let parts: Vec<&[u8]> = std::iter::once(namespace).chain(parts.iter().copied()).collect();
        self.digest("start", &parts)
    }

    /// Hashes an identity. `kind` and `name` say which source it came from: the same value from another source is
    /// somebody else.
    pub(super) fn principal(&self, kind: &str, name: &str, identity: &[&[u8]]) -> Principal {
        let parts: Vec<&[u8]> =
            [kind.as_bytes(), name.as_bytes()].into_iter().chain(identity.iter().copied()).collect();
        Principal(self.digest("principal", &parts))
    }

    /// Every part goes in behind its length, so no two lists of parts hash the same bytes.
    pub(super) fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = hmac::Context::with_key(&self.0);
        for part in [b"holdover", purpose.as_bytes()].iter().chain(parts) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let tag = hash.sign();
        tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key() -> IdentityKey {
        IdentityKey::from_secret(b"a secret")
    }

    #[test]
    fn moving_a_boundary_between_parts_makes_another_principal() {
        let key = key();
        let hashes: HashSet<_> = [
            key.principal("header", "ab", &[b"c"]),
            key.principal("header", "a", &[b"bc"]),
            key.principal("headera", "b", &[b"c"]),
            key.principal("header", "ab", &[b"c", b""]),
            key.principal("header", "ab", &[b"", b"c"]),
            key.principal("cookie", "ab", &[b"c"]),
        ]
        .into();
        assert_eq!(hashes.len(), 6);
    }

    #[test]
    fn another_secret_makes_another_principal() {
        let principal = |key: IdentityKey| key.principal("header", "x", &[b"alice"]);
        assert_eq!(principal(key()), principal(key()));
        assert_ne!(principal(key()), principal(IdentityKey::from_secret(b"another")));
        assert_ne!(principal(IdentityKey::random()), principal(IdentityKey::random()));
    }

    #[test]
    fn a_principal_survives_the_store_and_nothing_else_does() {
        let alice = key().principal("header", "x", &[b"alice"]);
        let hex = alice.to_hex();
        assert_eq!(hex.parse(), Ok(alice));
        for bad in ["", "zz", &hex[1..], &hex[2..], &format!("{hex}00"), &hex.to_uppercase(), &format!(" {hex}")] {
            assert_eq!(bad.parse::<Principal>(), Err(NotAPrincipal), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_neither_hash_nor_secret() {
        let alice = key().principal("header", "x", &[b"alice"]);
        let session = key().session_key(Some(&alice), "chat");
        assert_eq!(format!("{alice:?}"), format!("Principal({}…)", &alice.to_hex()[..6]));
        assert_eq!(format!("{session:?}"), format!("SessionKey({}…)", &session.to_hex()[..6]));
        assert_eq!(format!("{:?}", key()), "IdentityKey(…)");
    }

    #[test]
    fn a_session_belongs_to_one_principal() {
        let key = key();
        let alice = key.principal("header", "x", &[b"alice"]);
        let bob = key.principal("header", "x", &[b"bob"]);
        let keys: HashSet<_> = [Some(&alice), Some(&bob), None].map(|who| key.session_key(who, "chat-1")).into();
        assert_eq!(keys.len(), 3);
        assert_eq!(key.session_key(Some(&alice), "chat-1"), key.session_key(Some(&alice), "chat-1"));
        assert_ne!(key.session_key(Some(&alice), "chat-1"), key.session_key(Some(&alice), "chat-2"));

        let session = key.session_key(Some(&alice), "chat-1");
        assert_eq!(session.to_hex()[..10], HEXLOWER.encode(&session.slot_tag()));
    }
}
