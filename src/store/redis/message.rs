//! What nodes say to each other through their inboxes. Nothing depends on a message arriving: whatever it says is in the
//! turn's keys too, and is found there a little later.

use bytes::Bytes;

use super::codec::{Unreadable, put_bytes, put_varint, take, take_bytes, take_varint};
use crate::{
    sse::{Seq, TurnId},
    turn::{NodeId, Wish},
};

/// A message to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// To the owner: stop this turn.
    Stop(TurnId, Wish),
    /// To the owner: the backend is being asked to stop this turn, or is not any more.
    Ask(TurnId, bool),
    /// To the owner: this node follows the turn. Repeated while it is so.
    Watch(TurnId, NodeId),
    /// To a watching node: look at the turn again (it has begun to answer, or ended).
    Look(TurnId),
    /// To a watching node: batches that the store has taken.
    Frames(Vec<Frame>),
    /// To oneself: proof that messages arrive.
    Echo(u64),
}

/// A batch as it is in the store, and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) turn: TurnId,
    /// Seq before its first block.
    pub(super) prev: Seq,
    /// As [`super::codec::encode_blocks`] makes it.
    pub(super) blocks: Bytes,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let tagged = |tag: u8, turn: &TurnId| [&[tag], turn.as_str().as_bytes()].concat();
        match self {
            Self::Stop(turn, Wish::Stop) => tagged(b's', turn),
            Self::Stop(turn, Wish::StopSoon) => tagged(b'a', turn),
            Self::Stop(turn, Wish::Supersede) => tagged(b'S', turn),
            Self::Ask(turn, true) => tagged(b'q', turn),
            Self::Ask(turn, false) => tagged(b'u', turn),
            Self::Watch(turn, node) => [&tagged(b'w', turn), node.0.as_bytes()].concat(),
            Self::Look(turn) => tagged(b'l', turn),
            Self::Frames(frames) => {
                let len = frames.iter().map(|f| f.blocks.len() + TurnId::LEN + 12).sum::<usize>();
                let mut out = Vec::with_capacity(1 + len);
                out.push(b'f');
                for frame in frames {
                    out.extend_from_slice(frame.turn.as_str().as_bytes());
                    put_varint(&mut out, frame.prev);
                    put_bytes(&mut out, &frame.blocks);
                }
                out
            }
            Self::Echo(nonce) => {
                let mut out = vec![b'e'];
                put_varint(&mut out, *nonce);
                out
            }
        }
    }

    pub(super) fn decode(mut message: Bytes) -> Result<Self, Unreadable> {
        let tag = take(&mut message, 1)?[0];
        let decoded = match tag {
            b's' => Self::Stop(take_turn(&mut message)?, Wish::Stop),
            b'a' => Self::Stop(take_turn(&mut message)?, Wish::StopSoon),
            b'S' => Self::Stop(take_turn(&mut message)?, Wish::Supersede),
            b'q' => Self::Ask(take_turn(&mut message)?, true),
            b'u' => Self::Ask(take_turn(&mut message)?, false),
            b'w' => {
                let turn = take_turn(&mut message)?;
                let node = std::mem::take(&mut message);
                let node = std::str::from_utf8(&node).map_err(|_| Unreadable("a bad node name"))?;
                Self::Watch(turn, NodeId(node.into()))
            }
            b'l' => Self::Look(take_turn(&mut message)?),
            b'f' => {
                let mut frames = Vec::new();
                while !message.is_empty() {
                    let turn = take_turn(&mut message)?;
                    let prev = take_varint(&mut message)?;
                    let blocks = take_bytes(&mut message)?;
                    frames.push(Frame { turn, prev, blocks });
                }
                Self::Frames(frames)
            }
            b'e' => Self::Echo(take_varint(&mut message)?),
            _ => return Err(Unreadable("a message of an unknown kind")),
        };
        if !message.is_empty() {
            return Err(Unreadable("a message longer than it should be"));
        }
        Ok(decoded)
    }
}

fn take_turn(message: &mut Bytes) -> Result<TurnId, Unreadable> {
    let id = take(message, TurnId::LEN as u64)?;
    let id = std::str::from_utf8(&id).ok().and_then(|text| text.parse().ok());
    id.ok_or(Unreadable("a bad turn id"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn turn() -> impl Strategy<Value = TurnId> {
        any::<([u8; 5], [u8; 13])>().prop_map(|(tag, random)| TurnId::new(tag, random))
    }

    fn message() -> impl Strategy<Value = Message> {
        let blocks = vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        let frame = (turn(), any::<Seq>(), blocks).prop_map(|(turn, prev, blocks)| Frame { turn, prev, blocks });
        prop_oneof![
            turn().prop_map(|turn| Message::Stop(turn, Wish::Stop)),
            turn().prop_map(|turn| Message::Stop(turn, Wish::StopSoon)),
            turn().prop_map(|turn| Message::Stop(turn, Wish::Supersede)),
            (turn(), "\\PC{0,40}").prop_map(|(turn, node)| Message::Watch(turn, NodeId(node.into()))),
            (turn(), any::<bool>()).prop_map(|(turn, asked)| Message::Ask(turn, asked)),
            turn().prop_map(Message::Look),
            vec(frame, 0..5).prop_map(Message::Frames),
            any::<u64>().prop_map(Message::Echo),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(message in message()) {
            prop_assert_eq!(Message::decode(message.encode().into()), Ok(message));
        }

        #[test]
        fn hostile_bytes_never_panic(tag in prop::sample::select(b"sqwlfe?".to_vec()), rest in vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(Bytes::from([vec![tag], rest].concat()));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let read = |bytes: &'static [u8]| Message::decode(Bytes::from_static(bytes));
        assert_eq!(read(b""), Err(Unreadable("shorter than it says")));
        assert_eq!(read(b"?"), Err(Unreadable("a message of an unknown kind")));
        assert_eq!(read(b"sABCDEFGHIJKLMNOPQRSTUVWXYZ!!"), Err(Unreadable("a bad turn id")));
        assert_eq!(read(b"e\x00\x00"), Err(Unreadable("a message longer than it should be")));
    }
}
