//! Where a client says it stopped.

use super::{EventId, TurnId};

/// The value of a `Last-Event-ID` header, or of a query parameter that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// From the first event on: empty, `-1` (LangGraph), `0`, or `0-0` (a Redis stream's beginning).
    Start,
    /// After this event. An id whose turn is ours and whose seq is damaged counts as seq 0: it must not reach the backend,
    /// and what the client has is not known.
    After(EventId),
    /// Only what comes from now on: `now` or `$`.
    Now,
    /// Anything else: an id of the backend's own, or nonsense.
    Foreign,
}

impl Cursor {
    /// Reads what a client sent; any bytes at all may come. Blanks around it do not count.
    pub fn parse(text: &[u8]) -> Self {
        match text.trim_ascii() {
            b"" | b"-1" | b"0" | b"0-0" => Self::Start,
            b"now" | b"$" => Self::Now,
            text => Self::event(text).map_or(Self::Foreign, Self::After),
        }
    }

    fn event(text: &[u8]) -> Option<EventId> {
        let (turn, rest) = text.split_at_checked(TurnId::LEN)?;
        let turn = std::str::from_utf8(turn).ok()?.parse().ok()?;
        let whole = std::str::from_utf8(text).ok().filter(|text| text.len() <= EventId::MAX_LEN);
        match whole.and_then(|text| text.parse().ok()) {
            Some(event) => Some(event),
            None => matches!(rest, [] | [b'-', ..]).then_some(EventId { turn, seq: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";

    fn parse(text: impl AsRef<[u8]>) -> Cursor {
        Cursor::parse(text.as_ref())
    }

    #[test]
    fn an_id_of_ours_names_its_event() {
        let after = |seq| Cursor::After(EventId { turn: TURN.parse().unwrap(), seq });
        assert_eq!(parse(format!("{TURN}-1")), after(1));
        assert_eq!(parse(format!("{TURN}-0")), after(0));
        assert_eq!(parse(format!("{TURN}-{}", u64::MAX)), after(u64::MAX));
        assert_eq!(parse(format!(" \t{TURN}-12 ")), after(12));
    }

    #[test]
    fn clients_have_words_for_start_and_now() {
        for text in ["", "  ", "-1", "0", "0-0", " -1 "] {
            assert_eq!(parse(text), Cursor::Start, "{text:?}");
        }
        for text in ["now", "$", " now"] {
            assert_eq!(parse(text), Cursor::Now, "{text:?}");
        }
    }

    #[test]
    fn a_damaged_id_of_ours_means_the_start_of_its_turn() {
        let of_turn = [
            "",
            "-",
            "--1",
            "-+1",
            "-01",
            "-00",
            "-1 2",
            "-1.0",
            "-1e3",
            "-0x1",
            "-1-1",
            "- 1",
            "-1\0",
            "-١",
            "-NaN",
            "-18446744073709551616",
            "-99999999999999999999999",
        ];
        let start = Cursor::After(EventId { turn: TURN.parse().unwrap(), seq: 0 });
        for rest in of_turn {
            assert_eq!(parse(format!("{TURN}{rest}")), start, "{rest:?}");
        }
        assert_eq!(parse(format!("{TURN}-{TURN}")), start);
        assert_eq!(parse(format!("{TURN}-{}", "1".repeat(1 << 20))), start);
        assert_eq!(parse([TURN.as_bytes(), b"-\xff"].concat()), start);
    }

    #[test]
    fn whatever_else_is_foreign() {
        let wrong_turn = [
            format!("{}-1", TURN.to_uppercase()),
            format!("{}-1", &TURN[1..]),
            format!("a{TURN}-1"),
            format!("{}1-1", &TURN[1..]),
            format!("{}é-1", &TURN[2..]),
            format!("{TURN}1"),
        ];
        let other =
            ["-2", "1", "00", "0-1", "NOW", "$$", "null", "undefined", "1526919030474-55", "-", "\0", "\u{feff}"];
        for text in wrong_turn.iter().map(String::as_str).chain(other) {
            assert_eq!(parse(text), Cursor::Foreign, "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe\x80"), Cursor::Foreign);
        assert_eq!(parse(vec![b'-'; 1 << 20]), Cursor::Foreign);
    }
}
