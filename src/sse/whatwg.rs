//! An event-stream parser for the tests to judge by: the text of WHATWG HTML §9.2.6 step by step, on a whole stream,
//! sharing nothing with the code it judges.

/// What a parser makes of a whole stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) events: Vec<Dispatched>,
    /// The reconnection time at the end, in digits.
    pub(super) retry: String,
}

/// An event as a page would get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dispatched {
    pub(super) kind: String,
    pub(super) data: String,
    pub(super) last_event_id: String,
    /// The reconnection time when it was dispatched, in digits.
    pub(super) retry: String,
}

/// The complete lines of a stream that may begin with a byte order mark.
pub(super) fn complete_lines(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream);
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = Vec::new();
    while let Some(end) = rest.find(['\r', '\n']) {
        lines.push(rest[..end].to_owned());
        let ending = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + ending..];
    }
    lines
}

/// Name and value of a line; none for a comment.
pub(super) fn field(line: &str) -> Option<(&str, &str)> {
    match line.split_once(':') {
        Some(("", _)) => None,
        Some((name, value)) => Some((name, value.strip_prefix(' ').unwrap_or(value))),
        None => Some((line, "")),
    }
}

pub(super) fn parse(stream: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut kind, mut data, mut id) = (String::new(), String::new(), String::new());
    for line in complete_lines(stream) {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                parsed.events.push(Dispatched {
                    kind: if kind.is_empty() { "message".to_owned() } else { kind.clone() },
                    data: data.clone(),
                    last_event_id: id.clone(),
                    retry: parsed.retry.clone(),
                });
            }
            kind.clear();
            data.clear();
            continue;
        }
        match field(&line) {
            Some(("event", value)) => kind = value.to_owned(),
            Some(("data", value)) => {
                data += value;
                data += "\n";
            }
            Some(("id", value)) if !value.contains('\0') => id = value.to_owned(),
            Some(("retry", value)) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                parsed.retry = value.to_owned();
            }
            _ => {}
        }
    }
    parsed
}
