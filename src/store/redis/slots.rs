//! Which server of a cluster has which keys.

use redis::Value;

use super::codec::Unreadable;

/// The number of slots that all keys are spread over.
pub(super) const SLOTS: u16 = 16384;

/// The slot of a key: of what its first braces hold, if anything, else of all of it (Redis Cluster specification, “Key
/// distribution model”).
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let behind = &key[open + 1..];
        let close = behind.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &behind[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM. The keys are short: no table is needed.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// The slots from `first` to `last`, and the master that has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads the reply to `CLUSTER SLOTS` of the server at `asked`, in the order of slots. Replicas are left out: they take
/// no writes, and may not have what was just written.
pub(super) fn read_slots(reply: Value, asked: &str) -> Result<Vec<Range>, Unreadable> {
    const WRONG: Unreadable = Unreadable("an unknown reply to CLUSTER SLOTS");
    let Value::Array(parts) = reply else { return Err(WRONG) };
    let slot = |value: &Value| match value {
        Value::Int(slot) => u16::try_from(*slot).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    };
    let mut ranges = Vec::with_capacity(parts.len());
    for part in parts {
        let Value::Array(part) = part else { return Err(WRONG) };
        let [first, last, Value::Array(master), ..] = part.as_slice() else { return Err(WRONG) };
        let [host, Value::Int(port), ..] = master.as_slice() else { return Err(WRONG) };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).map_err(|_| WRONG)?,
            Value::SimpleString(host) => host,
            Value::Nil => "",
            _ => return Err(WRONG),
        };
        // A server that does not know its own address leaves it out, or says that it does not.
        let host = if matches!(host, "" | "?") { asked } else { host };
        let (Some(first), Some(last), Ok(port)) = (slot(first), slot(last), u16::try_from(*port)) else {
            return Err(WRONG);
        };
        if first > last {
            return Err(WRONG);
        }
        ranges.push(Range { first, last, host: host.to_owned(), port });
    }
    ranges.sort_by_key(|range| range.first);
    if ranges.windows(2).any(|pair| pair[1].first <= pair[0].last) {
        return Err(WRONG);
    }
    Ok(ranges)
}

/// Where a server says that a command should go instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirection {
    /// To the server at this address, from now on.
    Moved(String),
    /// To the server at this address, this time.
    Ask(String),
    /// Nowhere else: its keys are on two servers while their slot moves.
    TryAgain,
}

impl Redirection {
    /// Reads an error of the server at `asked`.
    pub(super) fn of(error: &redis::RedisError, asked: &str) -> Option<Self> {
        if error.code() == Some("TRYAGAIN") {
            return Some(Self::TryAgain);
        }
        let (address, _) = error.redirect_node()?;
        // Without a host, it is the one that was asked.
        let address = if address.starts_with(':') { format!("{asked}{address}") } else { address.to_owned() };
        match error.code() {
            Some("ASK") => Some(Self::Ask(address)),
            _ => Some(Self::Moved(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    #[test]
    fn slots_are_those_that_redis_says() {
        // As CLUSTER KEYSLOT of Redis 7.0 answers.
        for (key, slot) in [
            ("", 0),
            ("123456789", 12739),
            ("foo", 12182),
            ("p:{foo}:m", 12182),
            ("{}foo", 9500),
            ("foo{bar", 15278),
            ("{bar}{foo}", 5061),
            ("{{bar}}", 4015),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn a_map_is_read_without_its_replicas() {
        let reply = b"*3\r\n*3\r\n:8192\r\n:16383\r\n*4\r\n$0\r\n\r\n:7002\r\n$1\r\nb\r\n*0\r\n\
            *4\r\n:0\r\n:99\r\n*4\r\n$8\r\n10.0.0.1\r\n:7001\r\n$1\r\na\r\n*0\r\n*4\r\n$8\r\n10.0.0.9\r\n:7009\r\n$1\r\nr\r\n*0\r\n\
            *3\r\n:100\r\n:8191\r\n*2\r\n$-1\r\n:7003\r\n";
        let read = read_slots(parse_redis_value(reply).unwrap(), "seed").unwrap();
        let range = |first, last, host: &str, port| Range { first, last, host: host.into(), port };
        assert_eq!(
            read,
            [range(0, 99, "10.0.0.1", 7001), range(100, 8191, "seed", 7003), range(8192, 16383, "seed", 7002)]
        );
    }

    #[test]
    fn a_map_that_cannot_be_is_refused() {
        let range = |first: i64, last: i64, port: i64| {
            let master = vec![Value::BulkString(b"host".to_vec()), Value::Int(port)];
            Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(master)])
        };
        assert!(read_slots(Value::Array(vec![range(0, 5, 1), range(6, 9, 1)]), "").is_ok());
        for parts in [
            vec![range(0, 16384, 1)],
            vec![range(5, 4, 1)],
            vec![range(0, 5, 1), range(5, 9, 1)],
            vec![range(0, 5, 65536)],
            vec![range(-1, 5, 1)],
            vec![Value::Array(vec![Value::Int(0), Value::Int(1), Value::Array(vec![])])],
            vec![Value::Nil],
        ] {
            assert!(read_slots(Value::Array(parts.clone()), "").is_err(), "{parts:?}");
        }
        assert!(read_slots(Value::Okay, "").is_err());
    }

    #[test]
    fn redirections_are_read() {
        let read = |error: &str| {
            let error = parse_redis_value(error.as_bytes()).unwrap().extract_error().unwrap_err();
            Redirection::of(&error, "asked")
        };
        assert_eq!(read("-MOVED 7 10.0.0.1:7001\r\n"), Some(Redirection::Moved("10.0.0.1:7001".into())));
        assert_eq!(read("-ASK 7 :7001\r\n"), Some(Redirection::Ask("asked:7001".into())));
        assert_eq!(read("-TRYAGAIN wait\r\n"), Some(Redirection::TryAgain));
        assert_eq!(read("-CLUSTERDOWN no\r\n"), None);
        assert_eq!(read("-ERR MOVED 7 10.0.0.1:7001\r\n"), None);
    }
}
