//! The agent's answer in the dialect of the AI SDK: its UI message stream, version 1.

use std::{fmt::Write as _, mem};

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Event;

/// The response header that says so, with the version for a value.
pub(super) const MARK: &str = "x-vercel-ai-ui-message-stream";

/// What `DefaultChatTransport` sends, as far as it is read, and the pace beside it.
#[derive(Deserialize)]
pub(super) struct Request {
    /// The chat.
    pub(super) id: String,
    /// Milliseconds before each event.
    pub(super) pace: Option<u64>,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

impl Request {
    /// The text of the last message.
    pub(super) fn message(&self) -> String {
        self.messages.last().iter().flat_map(|message| &message.parts).map(|part| &*part.text).collect()
    }
}

/// Writes one answer. Texts have a beginning and an end here, and a tool's input is sent again as a whole.
#[derive(Default)]
pub(super) struct Writer {
    /// How many texts have begun; their ids count.
    texts: usize,
    in_text: bool,
    arguments: String,
    tool: &'static str,
}

impl Writer {
    /// The blocks for one event.
    pub(super) fn write(&mut self, event: &Event) -> String {
        let mut parts = Vec::new();
        match event {
            Event::Start { turn, .. } => {
                parts.extend([
                    json!({"type": "start", "messageId": format!("answer-{turn}")}),
                    json!({"type": "start-step"}),
                ]);
            }
            Event::Text { delta } => {
                if !mem::replace(&mut self.in_text, true) {
                    self.texts += 1;
                    parts.push(json!({"type": "text-start", "id": self.text()}));
                }
                parts.push(json!({"type": "text-delta", "id": self.text(), "delta": delta}));
            }
            Event::ToolCall { id, name } => {
                parts.extend(self.text_end());
                self.tool = name;
                parts.push(json!({"type": "tool-input-start", "toolCallId": id, "toolName": name}));
            }
            Event::ToolArguments { id, delta } => {
                self.arguments.push_str(delta);
                parts.push(json!({"type": "tool-input-delta", "toolCallId": id, "inputTextDelta": delta}));
            }
            Event::ToolResult { id, result } => {
                let input: Value = serde_json::from_str(&mem::take(&mut self.arguments)).unwrap_or_default();
                let tool = self.tool;
                parts.push(json!({"type": "tool-input-available", "toolCallId": id, "toolName": tool, "input": input}));
                parts.push(json!({"type": "tool-output-available", "toolCallId": id, "output": result}));
            }
            Event::Finish { .. } => {
                parts.extend(self.text_end());
                parts.extend([json!({"type": "finish-step"}), json!({"type": "finish"}), json!("[DONE]")]);
            }
        }
        let mut blocks = String::new();
        for part in parts {
            // The last mark is no JSON.
            let data = part.as_str().map_or_else(|| part.to_string(), str::to_owned);
            let _ = write!(blocks, "data: {data}\n\n");
        }
        blocks
    }

    fn text(&self) -> String {
        format!("text-{}", self.texts)
    }

    fn text_end(&mut self) -> Option<Value> {
        mem::take(&mut self.in_text).then(|| json!({"type": "text-end", "id": self.text()}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::answer::events;

    #[test]
    fn every_part_that_begins_ends_and_the_text_is_the_answers() {
        let mut writer = Writer::default();
        let written: String = events(1).iter().map(|event| writer.write(event)).collect();
        let mut data: Vec<_> =
            written.split_terminator("\n\n").map(|block| block.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        let parts: Vec<Value> = data.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
        let count = |kind: &str| parts.iter().filter(|part| part["type"] == kind).count();
        assert_eq!((count("text-start"), count("text-end")), (2, 2));
        assert_eq!((count("tool-input-start"), count("tool-output-available"), count("finish")), (1, 1, 1));
        let text: String =
            parts.iter().filter(|part| part["type"] == "text-delta").filter_map(|p| p["delta"].as_str()).collect();
        let said: String = events(1)
            .iter()
            .filter_map(|event| if let Event::Text { delta } = event { Some(*delta) } else { None })
            .collect();
        assert_eq!(text, said);
        let input = parts.iter().find(|part| part["type"] == "tool-input-available").unwrap();
        assert_eq!(input["input"]["city"], "Lisbon");
    }

    #[test]
    fn the_message_is_the_text_of_the_last_one() {
        let body = json!({"id": "c", "messages": [
            {"role": "user", "parts": [{"type": "text", "text": "old"}]},
            {"role": "user", "parts": [{"type": "text", "text": "new "}, {"type": "file"}, {"type": "text", "text": "one"}]},
        ]});
        let request: Request = serde_json::from_value(body).unwrap();
        assert_eq!(request.message(), "new one");
    }
}
