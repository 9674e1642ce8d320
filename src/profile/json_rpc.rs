//! What the dialects on JSON-RPC 2.0 share: whose answer a message is, and errors.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::{Loss, Request};

/// The code of an error that is none of the client's (JSON-RPC 2.0, section 5.1).
const INTERNAL_ERROR: i32 = -32603;

/// The method of a request that is a single message.
pub(super) fn method(request: &Request) -> Option<&str> {
    let message = request.json()?;
    message.get("jsonrpc")?.as_str().filter(|version| *version == "2.0")?;
    message.get("method")?.as_str()
}

/// The id of a request that is a single message and wants an answer, as JSON.
pub(super) fn id(request: &Request) -> Option<String> {
    method(request)?;
    let id = request.json()?.get("id")?;
    (id.is_string() || id.is_number()).then(|| id.to_string())
}

/// Whether a message answers a request, and how: true is a result, false an error.
pub(super) fn answers(message: &Json) -> Option<bool> {
    let member = |name| message.get(name).is_some();
    (member("jsonrpc") && !member("method")).then_some(())?;
    match (member("result"), member("error")) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

/// The event that answers the request of a lost turn. Without the request's id nobody would know what it answers.
pub(super) fn lost(loss: &Loss<'_>) -> Option<Bytes> {
    let id: Json = serde_json::from_str(loss.request_id?).ok()?;
    let error = json!({ "code": INTERNAL_ERROR, "message": loss.message });
    Some(format!("data: {}\n\n", json!({ "jsonrpc": "2.0", "id": id, "error": error })).into())
}
