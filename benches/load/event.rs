//! The events that the backend sends and the client checks, and the request that asks for them.

use anyhow::{Context as _, Result, bail};

/// A turn as the client orders it from the backend, in the query of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// How many events; 0 for as many as come until the backend is told to finish.
    pub(crate) events: u64,
    /// Events per second; 0 for as fast as they are taken.
    pub(crate) rate: u32,
    /// Stay silent after the events until the backend is told to finish, and end with one event more.
    pub(crate) hold: bool,
}

/// One event, written anew for every number: fixed fields, padded to the length that was asked for.
pub(crate) struct Template(Vec<u8>);

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its number in its turn, from 1.
    pub(crate) n: u64,
    /// When it was sent, in nanoseconds of the harness's clock.
    pub(crate) sent: u64,
    /// Whether it is the last of its turn.
    pub(crate) last: bool,
}

/// Bytes of one event on the wire, blank line included.
pub(crate) const BYTES: usize = 250;

const DATA: &[u8] = b"data: ";
const N: usize = DATA.len() + r#"{"n":""#.len();
const N_DIGITS: usize = 10;
const SENT: usize = N + N_DIGITS + r#"","sent":""#.len();
const SENT_DIGITS: usize = 16;
const LAST: usize = SENT + SENT_DIGITS + r#"","last":"#.len();
const END: &[u8] = b"\"}\n\n";

impl Order {
    /// Path and query of the request.
    pub(crate) fn path(&self) -> String {
        format!("/turn?events={}&rate={}&hold={}", self.events, self.rate, u8::from(self.hold))
    }

    /// Reads path and query.
    pub(crate) fn parse(path: &str) -> Result<Self> {
        let query = path.strip_prefix("/turn?").with_context(|| format!("the backend has no {path}"))?;
        let mut order = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "events" => order.events = value.parse()?,
                "rate" => order.rate = value.parse()?,
                "hold" => order.hold = value != "0",
                _ => bail!("the backend does not know {name}"),
            }
        }
        Ok(order)
    }
}

impl Template {
    pub(crate) fn new() -> Self {
        let fields = r#"{"n":"0000000000","sent":"0000000000000000","last":0,"pad":""#;
        let mut bytes = [DATA, fields.as_bytes()].concat();
        bytes.resize(BYTES - END.len(), b'x');
        bytes.extend_from_slice(END);
        Self(bytes)
    }

    pub(crate) fn write(&mut self, event: Event) -> &[u8] {
        put_decimal(&mut self.0[N..N + N_DIGITS], event.n);
        put_decimal(&mut self.0[SENT..SENT + SENT_DIGITS], event.sent);
        self.0[LAST] = b'0' + u8::from(event.last);
        &self.0
    }
}

impl Event {
    /// Reads a `data:` line; `None` for any other.
    pub(crate) fn parse(line: &[u8]) -> Result<Option<Self>> {
        if !line.starts_with(DATA) {
            return Ok(None);
        }
        if line.len() + 2 != BYTES {
            bail!("an event of {} bytes came as {}", BYTES, line.len() + 2);
        }
        let n = decimal(&line[N..N + N_DIGITS]).context("an event without its number")?;
        let sent = decimal(&line[SENT..SENT + SENT_DIGITS]).context("an event without its time")?;
        Ok(Some(Self { n, sent, last: line[LAST] == b'1' }))
    }
}

fn put_decimal(to: &mut [u8], mut value: u64) {
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// A number in digits only.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}
