//! Names of turns and of the events in them.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use std::sync::LazyLock;

/// Position of an event in its turn, from 1, contiguous. 0 stands for "before the first event".
pub type Seq = u64;

/// Lower-case RFC 4648 base32 without padding: safe in URLs, header values, `id:` lines and Redis keys, and without the
/// `-` that separates turn and seq in an event id.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.check_trailing_bits = false;
    spec.encoding().expect("the alphabet is valid")
});

/// Name of a turn: 28 characters of lower-case base32.
///
/// The first 8 are the slot tag, which all turns of one session share so that they live in one Redis Cluster slot; the
/// other 20 are 100 random bits, which make the id a capability nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TurnId([u8; TurnId::LEN]);

impl TurnId {
    /// Length in characters.
    pub const LEN: usize = 28;
    const TAG: usize = 8;

    /// Makes an id from a 40-bit slot tag and random bytes, of which the first 100 bits count.
    pub fn new(tag: [u8; 5], random: [u8; 13]) -> Self {
        let mut text = [0; Self::LEN];
        BASE32.encode_mut(&tag, &mut text[..Self::TAG]);
        let mut rest = [0; 21];
        BASE32.encode_mut(&random, &mut rest);
        text[Self::TAG..].copy_from_slice(&rest[..Self::LEN - Self::TAG]);
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base32 is ASCII")
    }

    /// The 8 characters that all turns of one session share.
    pub fn slot_tag(&self) -> &str {
        &self.as_str()[..Self::TAG]
    }

    /// Enough of the id to find a turn in logs, too little to resume it.
    pub fn short(&self) -> &str {
        &self.as_str()[Self::TAG..Self::TAG + 6]
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shortened: a full id is a capability and must not reach a log by `{:?}`.
impl fmt::Debug for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnId(…{}…)", self.short())
    }
}

/// The text is not of the form that [`TurnId::new`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Holdover id")]
pub struct NotOurs;

impl FromStr for TurnId {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| NotOurs)?;
        let ours = bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        ours.then_some(Self(bytes)).ok_or(NotOurs)
    }
}

/// What a client sees in `id:` and sends back in `Last-Event-ID`: `<turn>-<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The turn the event belongs to.
    pub turn: TurnId,
    /// The event's position in it.
    pub seq: Seq,
}

impl EventId {
    /// Length of the longest event id, in characters: the greatest seq has 20 digits.
    pub const MAX_LEN: usize = TurnId::LEN + 1 + 20;
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.turn, self.seq)
    }
}

impl FromStr for EventId {
    type Err = NotOurs;

    /// Splits on the last `-`. Only the canonical decimal form counts (no sign, no leading zero), so that one event has
    /// one name.
    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let (turn, seq) = text.rsplit_once('-').ok_or(NotOurs)?;
        let turn = turn.parse()?;
        let canonical = seq == "0" || (seq.starts_with(|c: char| c.is_ascii_digit() && c != '0'));
        let digits = seq.bytes().all(|b| b.is_ascii_digit());
        match seq.parse() {
            Ok(seq) if canonical && digits => Ok(Self { turn, seq }),
            _ => Err(NotOurs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_id_is_tag_and_random_bits() {
        let zero = TurnId::new([0; 5], [0; 13]);
        assert_eq!(zero.as_str(), "a".repeat(28));
        let one = TurnId::new([0xff; 5], [0; 13]);
        assert_eq!((one.slot_tag(), one.short()), ("77777777", "aaaaaa"));
        let other = TurnId::new([0; 5], [0xff; 13]);
        assert_eq!((other.slot_tag(), other.short()), ("aaaaaaaa", "777777"));
        assert_eq!(other.to_string().parse(), Ok(other));
    }

    #[test]
    fn turns_of_one_session_share_the_tag_only() {
        let [one, other] = [1, 2].map(|byte| TurnId::new([7; 5], [byte; 13]));
        assert_eq!(one.slot_tag(), other.slot_tag());
        assert_ne!(one, other);
    }

    #[test]
    fn the_last_of_the_hundred_random_bits_counts_and_the_next_does_not() {
        let with = |byte| TurnId::new([0; 5], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte]);
        assert_ne!(with(0), with(0b0001_0000));
        assert_eq!(with(0), with(0b0000_1111));
    }

    #[test]
    fn debug_output_is_no_capability() {
        let turn = TurnId::new([1; 5], [2; 13]);
        let shown = format!("{:?} {:?}", turn, EventId { turn, seq: 1 });
        assert!(!shown.contains(turn.as_str()) && shown.contains(turn.short()));
    }

    #[test]
    fn only_the_canonical_form_is_ours() {
        for text in ["", "a", &"a".repeat(27), &"a".repeat(29), &"A".repeat(28), &"1".repeat(28), &"é".repeat(14)] {
            assert_eq!(text.parse::<TurnId>(), Err(NotOurs), "{text:?}");
        }
        let turn = "a".repeat(28);
        assert_eq!(format!("{turn}-7").parse(), Ok(EventId { turn: turn.parse().unwrap(), seq: 7 }));
        for seq in ["", "-", "-01", "-+1", "--1", "-1x", "-18446744073709551616"] {
            assert_eq!(format!("{turn}{seq}").parse::<EventId>(), Err(NotOurs), "{seq:?}");
        }
    }
}
