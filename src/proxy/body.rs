//! Request bodies that are read before, or instead of, going upstream.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::{Result, proxy::Session};

/// The whole body; `None` if it has more than `limit` bytes.
pub(super) async fn read(session: &mut Session, limit: usize) -> Result<Option<Bytes>> {
    invite(session).await?;
    let mut body = BytesMut::new();
    while let Some(piece) = session.downstream_session.read_request_body().await.map_err(|error| error.into_down())? {
        if body.len() + piece.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body.freeze()))
}

/// Reads away what is left of a body that is of no use, such as that of a re-sent POST. What came unread would look like
/// the client's next request, or like its leaving.
pub(super) async fn discard(session: &mut Session) -> Result<()> {
    if !session.as_mut().is_body_done() {
        invite(session).await?;
    }
    session.as_downstream_mut().drain_request_body().await.map_err(|error| error.into_down())
}

/// Tells a client that asks first to send its body (RFC 9110 §10.1.1).
pub(super) async fn invite(session: &mut Session) -> Result<()> {
    let expected = session.req_header().headers.get(header::EXPECT);
    if expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        session.downstream_session.write_continue_response().await.map_err(|error| error.into_down())?;
    }
    Ok(())
}
