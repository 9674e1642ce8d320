//! Single values: how each type is written.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::{HeaderName, Method};
use serde_json::{Value as Json, json};
use url::Url;

use super::{
    section::{Bounded, Leaf, Wrong},
    tree::Value,
};

/// A value that is never shown: `Debug` and `Display` give `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// For ranges.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
/// For ranges.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// For ranges.
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Text as a TOML string.
pub(super) fn quoted(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Leaf for Secret {
    const SECRET: bool = true;
    const EXPECTED: &'static str = "a text in quotes";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        match value.text()?.trim() {
            "" => Err(Wrong::new("a secret must not be empty")),
            secret => Ok(Self::new(secret)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Cidr {
    /// Whether an address is in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => (network.to_bits() ^ address.to_bits()) & self.mask_v4() == 0,
            (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits() ^ address.to_bits()) & self.mask_v6() == 0,
            _ => false,
        }
    }

    fn mask_v4(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }

    fn mask_v6(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl Leaf for Cidr {
    const EXPECTED: &'static str = "an address or a network such as \"10.0.0.0/8\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = value.text()?.trim();
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| Wrong::kind())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(longest), str::parse).ok().filter(|bits| *bits <= longest).ok_or_else(Wrong::kind)?;
        let mut cidr = Self { network: address, bits };
        cidr.network = match address {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits() & cidr.mask_v4()).into()),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() & cidr.mask_v6()).into()),
        };
        if cidr.network != address {
            return Err(
                Wrong::new(format!("`{text}` has bits set behind its prefix")).help(format!("write \"{cidr}\""))
            );
        }
        Ok(cidr)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        match value {
            Value::Bool(value) => Ok(*value),
            Value::Raw(raw) => raw.trim().parse().map_err(|_| Wrong::kind()),
            _ => Err(Wrong::kind()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

/// A count.
impl Leaf for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        Self::try_from(value.integer()?)
            .map_err(|_| Wrong::new("the number is out of range").help("write one from 0 to 4294967295"))
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0 })
    }
}

/// How sizes are written, largest first; the binary ones are shown.
const BYTES: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("B", 1),
];

/// A number of bytes; counts are `u32`.
impl Leaf for usize {
    const EXPECTED: &'static str = "a size such as \"64MiB\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let too_much = || Wrong::new("the size is out of range").help("write one such as \"64MiB\"");
        if let Ok(bytes) = value.integer() {
            return Self::try_from(bytes).map_err(|_| too_much());
        }
        let text = value.text()?.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = (&text[..digits], text[digits..].trim_start());
        if number.is_empty() {
            return Err(Wrong::kind());
        }
        let number: Self = number.parse().map_err(|_| too_much())?;
        match BYTES.iter().find(|(name, _)| *name == unit) {
            Some((_, size)) => number.checked_mul(*size).ok_or_else(too_much),
            None => {
                let letter = unit.chars().next().unwrap_or('M').to_ascii_uppercase();
                let near = BYTES.iter().find(|(name, _)| name.starts_with(letter)).map_or("MiB", |(name, _)| name);
                Err(Wrong::new(format!("`{}` is not a unit of size", unit.escape_debug()))
                    .help(format!("write \"{number}{near}\"")))
            }
        }
    }

    fn show(&self) -> Option<String> {
        let unit = BYTES.iter().find(|(name, size)| name.ends_with("iB") && *self > 0 && self.is_multiple_of(*size));
        Some(match unit {
            Some((name, size)) => quoted(format_args!("{}{name}", self / size)),
            None => self.to_string(),
        })
    }

    fn schema() -> Json {
        json!({ "type": ["integer", "string"], "pattern": "^[0-9]+ *([KMG]i?)?B$" })
    }
}

/// How durations are written, largest first, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Longer ones are mistakes, and clocks could not add them.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A sequence of numbers with units: `10s`, `1h30m`.
impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration such as \"10s\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = match value {
            Value::Integer(number) => {
                return Err(Wrong::new("the duration has no unit").help(format!("write \"{number}s\" for seconds")));
            }
            value => value.text()?.trim(),
        };
        let too_long = || Wrong::new("the duration is too long").help("write at most \"366d\"");
        let (mut rest, mut sum) = (text, 0_u64);
        while !rest.is_empty() {
            let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let number = &rest[..rest.len() - unit.len()];
            if number.is_empty() {
                return Err(Wrong::kind());
            }
            rest = unit.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let name = &unit[..unit.len() - rest.len()];
            let Some((_, length)) = TIMES.iter().find(|(known, _)| *known == name) else {
                return Err(if name.is_empty() && rest.is_empty() {
                    Wrong::new("the duration has no unit").help(format!("write \"{text}s\" for seconds"))
                } else {
                    Wrong::new(format!(
                        "`{}` is not a unit of time",
                        if name.is_empty() { rest } else { name }.escape_debug()
                    ))
                    .help("write ms, s, m, h or d behind a whole number, as in \"1h30m\"")
                });
            };
            let number: u64 = number.parse().map_err(|_| too_long())?;
            sum = number.checked_mul(*length).and_then(|part| sum.checked_add(part)).ok_or_else(too_long)?;
        }
        if text.is_empty() {
            return Err(Wrong::kind());
        }
        Some(Self::from_millis(sum)).filter(|sum| *sum <= LONGEST).ok_or_else(too_long)
    }

    fn show(&self) -> Option<String> {
        let all = self.as_millis();
        let unit = TIMES.iter().find(|(_, length)| all > 0 && all.is_multiple_of(u128::from(*length)));
        let (name, length) = unit.unwrap_or(&("s", 1000));
        Some(quoted(format_args!("{}{name}", all / u128::from(*length))))
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" })
    }
}

/// A duration, or `off`.
impl Leaf for Option<Duration> {
    const EXPECTED: &'static str = "a duration such as \"10s\", or \"off\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        match value {
            Value::Text(text) | Value::Raw(text) if text.trim() == "off" => Ok(None),
            Value::Bool(false) => Err(Wrong::kind().help("write \"off\"")),
            value => Duration::parse(value).map(Some),
        }
    }

    fn show(&self) -> Option<String> {
        self.as_ref().map_or_else(|| Some(quoted("off")), Leaf::show)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(off|([0-9]+(ms|s|m|h|d))+)$" })
    }
}

impl Bounded for Duration {
    type Size = Self;

    fn size(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Bounded for Option<Duration> {
    type Size = Duration;

    fn size(&self) -> Option<&Duration> {
        self.as_ref()
    }
}

impl Bounded for usize {
    type Size = Self;

    fn size(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Bounded for u32 {
    type Size = Self;

    fn size(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Leaf for String {
    const EXPECTED: &'static str = "a text in quotes";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        match value.text()? {
            "" => Err(Wrong::new("the text must not be empty")),
            text => Ok(text.to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Leaf for PathBuf {
    const EXPECTED: &'static str = "the path of a file";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        String::parse(value).map(Self::from)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self.display()))
    }
}

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:8080\" or \"[::]:8080\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = value.text()?.trim();
        text.parse().map_err(|_| match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => {
                Wrong::new("the address is missing").help(format!("write \"0.0.0.0:{port}\" for all addresses"))
            }
            Err(_) => Wrong::kind(),
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Leaf for HeaderName {
    const EXPECTED: &'static str = "the name of a header";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        value.text()?.trim().parse().map_err(|_| Wrong::kind())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// The name in `header:NAME`.
pub(super) fn header(name: &str) -> Result<HeaderName, Wrong> {
    name.parse().map_err(|_| Wrong::new(format!("`{}` is not the name of a header", name.escape_debug())))
}

/// The name in `cookie:NAME`: a token (RFC 6265, section 4.1.1), as header names are.
pub(super) fn cookie(name: &str) -> Result<String, Wrong> {
    match name.parse::<HeaderName>() {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(Wrong::new(format!("`{}` is not the name of a cookie", name.escape_debug()))),
    }
}

impl Leaf for Method {
    const EXPECTED: &'static str = "a method such as \"POST\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = value.text()?.trim();
        let method: Self = text.parse().map_err(|_| Wrong::kind())?;
        let upper = text.to_ascii_uppercase();
        if text == upper {
            Ok(method)
        } else {
            Err(Wrong::new("methods are written in capitals").help(format!("write \"{upper}\"")))
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Leaf for Url {
    const EXPECTED: &'static str = "an address such as \"https://example.com/jwks.json\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let url: Self = value.text()?.trim().parse().map_err(|_| Wrong::kind())?;
        let web = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        Some(url).filter(|_| web).ok_or_else(Wrong::kind)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// Values that may be left out; those of `Option<Duration>` may be `off`.
macro_rules! optional {
    ($($Type:ty),+) => { $(
        impl Leaf for Option<$Type> {
            const SECRET: bool = <$Type as Leaf>::SECRET;
            const EXPECTED: &'static str = <$Type as Leaf>::EXPECTED;

            fn parse(value: &Value) -> Result<Self, Wrong> {
                <$Type as Leaf>::parse(value).map(Some)
            }

            fn show(&self) -> Option<String> {
                self.as_ref().and_then(Leaf::show)
            }

            fn schema() -> Json {
                <$Type as Leaf>::schema()
            }
        }
    )+ };
}

optional!(String, PathBuf, Secret, Url, http::HeaderName, super::SessionSource);
