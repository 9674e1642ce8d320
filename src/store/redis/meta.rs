//! A turn's hash: its record, field by field.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::codec::{Unreadable, decode_head, encode_head};
use crate::{
    sse::TurnId,
    turn::{Cap, Digest, End, Epoch, Log, NodeId, Session, TurnRecord},
};

/// What is read of a turn, in this order.
pub(super) const FIELDS: [&str; 16] = [
    "ep",   // epoch
    "st",   // R: runs, E: ended
    "n",    // seq of the last block
    "by",   // bytes of all blocks
    "own",  // node
    "ct",   // started at
    "ro",   // route
    "au",   // principal, in hex; empty without
    "sk",   // session key, in hex; absent without
    "sn",   // session name
    "hd",   // header; absent until the upstream answered
    "oc",   // outcome
    "rs",   // reason
    "at",   // ended at
    "cap",  // why recording ended early
    "tail", // what followed the last blank line
];

/// What is in a turn's hash.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Meta {
    pub(super) record: TurnRecord,
    /// What the log knows behind its last block.
    pub(super) tail: Bytes,
}

/// A field and its value.
pub(super) type Field = (&'static str, Vec<u8>);

/// The fields of a turn that starts, but for those the script knows.
pub(super) fn start_fields(record: &TurnRecord) -> Vec<Field> {
    let mut fields = vec![
        ("own", record.node.0.as_bytes().to_vec()),
        ("ct", record.started_at.to_string().into()),
        ("ro", record.route.as_bytes().to_vec()),
        ("au", record.principal.map(|p| HEXLOWER.encode(&p)).unwrap_or_default().into()),
    ];
    if let Some(session) = &record.session {
        fields.push(("sk", HEXLOWER.encode(&session.key).into()));
        fields.push(("sn", session.name.as_bytes().to_vec()));
    }
    if let Some(head) = &record.head {
        fields.push(("hd", encode_head(head)));
    }
    fields
}

/// The fields of an end.
pub(super) fn end_fields(end: &End) -> Vec<Field> {
    vec![("oc", end.outcome.as_str().into()), ("rs", end.reason.as_bytes().to_vec()), ("at", end.at.to_string().into())]
}

/// The fields that only the owner's log can fill, at the end.
pub(super) fn log_fields(log: &Log) -> Vec<Field> {
    let mut fields = vec![("by", log.bytes().to_string().into_bytes())];
    if let Some(head) = log.head().filter(|_| log.last() == 0) {
        // No batch has brought it.
        fields.push(("hd", encode_head(&head)));
    }
    if let Some(cap) = log.capped() {
        fields.push(("cap", cap.as_str().into()));
    }
    let tail = log.aside();
    if !tail.is_empty() {
        fields.push(("tail", tail.to_vec()));
    }
    fields
}

/// Reads an end from its three values.
pub(super) fn read_end(outcome: &[u8], reason: &[u8], at: &[u8]) -> Result<End, Unreadable> {
    Ok(End {
        outcome: text(outcome)?.parse().map_err(|_| Unreadable("an unknown outcome"))?,
        reason: text(reason)?.into(),
        at: number(at)?,
    })
}

/// Reads the values of [`FIELDS`]. `None`: there is no such turn.
pub(super) fn read(id: TurnId, values: Vec<Option<Vec<u8>>>) -> Result<Option<Meta>, Unreadable> {
    let values: [_; FIELDS.len()] = values.try_into().map_err(|_| Unreadable("another number of fields"))?;
    let [ep, st, n, by, own, ct, ro, au, sk, sn, hd, oc, rs, at, cap, tail] = values;
    let Some(ep) = ep else { return Ok(None) };
    let must = |value: Option<Vec<u8>>| value.ok_or(Unreadable("a turn without a field it must have"));
    let session = match sk {
        Some(key) => Some(Session { key: digest(&key)?, name: text(&must(sn)?)?.to_owned() }),
        None => None,
    };
    let end = match must(st)?.as_slice() {
        b"R" => None,
        b"E" => Some(read_end(&must(oc)?, &must(rs)?, &must(at)?)?),
        _ => return Err(Unreadable("an unknown state")),
    };
    let cap: Option<Cap> = match cap {
        Some(cap) => Some(text(&cap)?.parse().map_err(|_| Unreadable("an unknown cap"))?),
        None => None,
    };
    let record = TurnRecord {
        id,
        epoch: Epoch(text(&ep)?.into()),
        node: NodeId(text(&must(own)?)?.into()),
        principal: match must(au)?.as_slice() {
            b"" => None,
            hex => Some(digest(hex)?),
        },
        session,
        route: text(&must(ro)?)?.into(),
        started_at: number(&must(ct)?)?,
        head: hd.map(|head| decode_head(head.into())).transpose()?.map(Arc::new),
        last: number(&must(n)?)?,
        bytes: number(&must(by)?)?,
        cap,
        end,
    };
    Ok(Some(Meta { record, tail: tail.unwrap_or_default().into() }))
}

/// Reads a decimal number.
pub(super) fn number(value: &[u8]) -> Result<u64, Unreadable> {
    text(value)?.parse().map_err(|_| Unreadable("a number that is none"))
}

fn text(value: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(value).map_err(|_| Unreadable("text that is not UTF-8"))
}

fn digest(hex: &[u8]) -> Result<Digest, Unreadable> {
    let bytes = HEXLOWER.decode(hex).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(Unreadable("a key that is not 64 digits of hex"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::turn::Outcome;

    fn record() -> TurnRecord {
        let key = [9; 32];
        TurnRecord {
            id: TurnId::new([9; 5], [1; 13]),
            epoch: Epoch("e".into()),
            node: NodeId("n".into()),
            principal: Some([7; 32]),
            session: Some(Session { key, name: "chat ⌘ 1".into() }),
            route: "chat".into(),
            started_at: 12,
            head: None,
            last: 0,
            bytes: 0,
            cap: None,
            end: None,
        }
    }

    fn values(fields: Vec<Field>) -> Vec<Option<Vec<u8>>> {
        FIELDS.iter().map(|name| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())).collect()
    }

    fn scripted(state: &'static str) -> Vec<Field> {
        [("ep", "e"), ("st", state), ("n", "0"), ("by", "0")].map(|(n, v)| (n, v.as_bytes().to_vec())).into()
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut record = record();
        let fields = [scripted("R"), start_fields(&record)].concat();
        assert_eq!(read(record.id, values(fields)).unwrap().unwrap().record, record);

        record.principal = None;
        record.session = None;
        record.end = Some(End { outcome: Outcome::Failed, reason: "".into(), at: u64::MAX });
        let fields = [scripted("E"), start_fields(&record), end_fields(record.end.as_ref().unwrap())].concat();
        assert_eq!(read(record.id, values(fields)).unwrap().unwrap().record, record);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let id = record().id;
        let whole = [scripted("R"), start_fields(&record())].concat();
        assert_eq!(read(id, values(vec![])), Ok(None));
        assert_eq!(read(id, vec![]), Err(Unreadable("another number of fields")));
        for (name, value, expected) in [
            ("st", "?", "an unknown state"),
            ("n", "-1", "a number that is none"),
            ("au", "xyz", "a key that is not 64 digits of hex"),
            ("st", "E", "a turn without a field it must have"),
        ] {
            let mut fields = whole.clone();
            fields.iter_mut().find(|(n, _)| *n == name).unwrap().1 = value.into();
            assert_eq!(read(id, values(fields)), Err(Unreadable(expected)), "{name} {value}");
        }
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(values in vec(option::of(vec(any::<u8>(), 0..40)), FIELDS.len())) {
            let _ = read(record().id, values);
        }
    }
}
