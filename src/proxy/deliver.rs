//! Hands a turn to one client: header, replay, live events, end.

use bytes::{Bytes, BytesMut};
use pingora::{Error, ErrorType, Result, http::ResponseHeader, proxy::Session};

use super::source::Upload;
use crate::{
    metrics::Metrics,
    node::{Delivery, Follow},
    turn::End,
};

/// Most bytes in one write. The write deadline is for each, so this sets the slowest rate at which a client may read.
const WRITE: usize = 64 << 10;

/// Pieces of fewer bytes are put together where there are several: a copy costs less than a call of the kernel.
const SMALL: usize = 4 << 10;

/// The error with which a client's connection is broken on purpose.
pub(super) const BROKEN: ErrorType = ErrorType::Custom("TurnBroken");

/// Writes the header, what the stream must begin with, and follows the turn to its end. An error ends the connection: the
/// client is gone, takes nothing, or must not take the answer for complete. `Some`: the turn was lost, and the answer is still
/// open for [`part`].
pub(super) async fn deliver(
    session: &mut Session,
    header: ResponseHeader,
    priming: Option<Bytes>,
    mut follow: Follow,
    mut upload: Upload,
    metrics: &Metrics,
) -> Result<Option<End>> {
    session.write_response_header(Box::new(header), false).await?;
    if let Some(priming) = priming {
        write(session, priming).await.inspect_err(|error| cut(metrics, error))?;
    }
    loop {
        let delivery = tokio::select! {
            // Where there is something to write, nobody looks whether the client is still there: writing tells.
            biased;
            delivery = follow.next() => delivery,
            // The rest of the request body, of a backend that answers before it has read it all; then only the news that
            // the client is gone.
            read = upload.read(session) => {
                upload.pass_on(read, session).await?;
                continue;
            }
        };
        match delivery {
            Delivery::Data(pieces) => {
                for piece in gathered(pieces) {
                    write(session, piece).await.inspect_err(|error| cut(metrics, error))?;
                }
            }
            Delivery::End(_) => return session.write_response_body(None, true).await.map(|()| None),
            Delivery::Lost(end) => return Ok(Some(end)),
            Delivery::Broken(reason) => {
                if matches!(reason, "behind" | "draining") {
                    metrics.followers_cut.with_label_values(&[reason]).inc();
                }
                return Err(Error::explain(BROKEN, reason).into_down());
            }
        }
    }
}

/// Ends the answer of a turn that was lost: with its last words, or by breaking the connection.
pub(super) async fn part(session: &mut Session, last_words: Option<Bytes>) -> Result<()> {
    let Some(event) = last_words else {
        return Err(Error::explain(BROKEN, "turn_broken").into_down());
    };
    write(session, event).await?;
    session.write_response_body(None, true).await
}

/// The same bytes in fewer pieces.
fn gathered(pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.len() < 2 {
        return pieces;
    }
    let mut out = Vec::with_capacity(pieces.len());
    let mut small = BytesMut::new();
    for piece in pieces {
        if piece.len() < SMALL {
            small.extend_from_slice(&piece);
            continue;
        }
        if !small.is_empty() {
            out.push(small.split().freeze());
        }
        out.push(piece);
    }
    if !small.is_empty() {
        out.push(small.freeze());
    }
    out
}

async fn write(session: &mut Session, mut piece: Bytes) -> Result<()> {
    while piece.len() > WRITE {
        let front = piece.split_to(WRITE);
        session.write_response_body(Some(front), false).await?;
    }
    session.write_response_body(Some(piece), false).await
}

fn cut(metrics: &Metrics, error: &Error) {
    if matches!(error.etype(), ErrorType::WriteTimedout) {
        metrics.followers_cut.with_label_values(&["write_timeout"]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_become_one_and_the_order_stays() {
        let large = Bytes::from(vec![b'x'; SMALL]);
        let pieces: Vec<Bytes> = vec!["a".into(), "b".into(), large.clone(), large.clone(), "c".into()];
        assert_eq!(gathered(pieces.clone()), vec![Bytes::from("ab"), large.clone(), large, "c".into()]);
        assert_eq!(gathered(pieces.clone()).concat(), pieces.concat());
        assert_eq!(gathered(vec!["a".into()]), vec![Bytes::from("a")]);
        assert!(gathered(vec![]).is_empty());
    }
}
