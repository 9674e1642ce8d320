//! What backends of well-known APIs write: whole turns, one block for each event.

use serde_json::{Value, json};

/// A turn as its backend writes it.
pub(crate) type Blocks = Vec<String>;

/// `event: <type>` and the data, as the OpenAI Responses API and Anthropic write it.
fn named(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("it has a type"))
}

/// A response of the OpenAI Responses API that reasons, speaks and calls a tool.
pub(crate) fn response(id: &str) -> Blocks {
    let whole = |status: &str, output: &[Value]| {
        json!({
            "id": id, "object": "response", "created_at": 1_760_000_000, "status": status, "model": "test", "output": output,
            "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "parallel_tool_calls": true,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "usage": null,
        })
    };
    let reasoning = |summary: &[Value]| json!({ "id": "rs_1", "type": "reasoning", "summary": summary });
    let thought = json!({ "type": "summary_text", "text": "Let me think." });
    let message = |status: &str, content: &[Value]| json!({ "id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content });
    let said = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
    let call = |status: &str, arguments: &str| {
        json!({
            "id": "fc_1", "type": "function_call", "status": status, "name": "weather", "call_id": "call_1",
            "arguments": arguments,
        })
    };
    let text = |kind: &str, key: &str, value: &str| {
        json!({
            "type": kind, "item_id": "msg_1", "output_index": 1, "content_index": 0, "logprobs": [], key: value,
        })
    };
    let thinks = |kind: &str, key: &str, value: Value| json!({ "type": kind, "item_id": "rs_1", "output_index": 0, "summary_index": 0, key: value });
    let arguments = |kind: &str, key: &str, value: &str| json!({ "type": kind, "item_id": "fc_1", "output_index": 2, "name": "weather", key: value });
    let item = |kind: &str, index: usize, item: Value| json!({ "type": kind, "output_index": index, "item": item });
    let words = ["Hello", " wide", "\n\nworld", " é€😀", "."];
    let all = words.concat();
    let items = [
        reasoning(std::slice::from_ref(&thought)),
        message("completed", &[said(&all)]),
        call("completed", r#"{"city":"Oslo"}"#),
    ];

    let mut events = vec![
        json!({ "type": "response.created", "response": whole("in_progress", &[]) }),
        json!({ "type": "response.in_progress", "response": whole("in_progress", &[]) }),
        item("response.output_item.added", 0, reasoning(&[])),
        thinks("response.reasoning_summary_part.added", "part", json!({ "type": "summary_text", "text": "" })),
        thinks("response.reasoning_summary_text.delta", "delta", json!("Let me")),
        thinks("response.reasoning_summary_text.delta", "delta", json!(" think.")),
        thinks("response.reasoning_summary_text.done", "text", json!("Let me think.")),
        thinks("response.reasoning_summary_part.done", "part", thought),
        item("response.output_item.done", 0, items[0].clone()),
        item("response.output_item.added", 1, message("in_progress", &[])),
        json!({
            "type": "response.content_part.added", "item_id": "msg_1", "output_index": 1, "content_index": 0,
            "part": said(""),
        }),
    ];
    events.extend(words.map(|word| text("response.output_text.delta", "delta", word)));
    events.extend([
        text("response.output_text.done", "text", &all),
        json!({
            "type": "response.content_part.done", "item_id": "msg_1", "output_index": 1, "content_index": 0,
            "part": said(&all),
        }),
        item("response.output_item.done", 1, items[1].clone()),
        item("response.output_item.added", 2, call("in_progress", "")),
        arguments("response.function_call_arguments.delta", "delta", r#"{"city":"#),
        arguments("response.function_call_arguments.delta", "delta", r#""Oslo"}"#),
        arguments("response.function_call_arguments.done", "arguments", r#"{"city":"Oslo"}"#),
        item("response.output_item.done", 2, items[2].clone()),
        json!({ "type": "response.completed", "response": whole("completed", &items) }),
    ]);
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = number.into();
    }
    events.iter().map(named).collect()
}

/// A chat completion: one chunk for each word, then what ends it.
pub(crate) fn completion(words: &[&str]) -> Blocks {
    let chunk = |delta: Value, reason: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        let chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "test", "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let mut blocks: Blocks = words.iter().map(|word| chunk(json!({ "content": word }), None)).collect();
    blocks.extend([chunk(json!({}), Some("stop")), "data: [DONE]\n\n".to_owned()]);
    blocks
}

/// A message of Anthropic's API that thinks, speaks and uses a tool.
pub(crate) fn message() -> Blocks {
    let start =
        |index: usize, block: Value| json!({ "type": "content_block_start", "index": index, "content_block": block });
    let delta = |index: usize, delta: Value| json!({ "type": "content_block_delta", "index": index, "delta": delta });
    let stop = |index: usize| json!({ "type": "content_block_stop", "index": index });
    let thinks = |text: &str| delta(0, json!({ "type": "thinking_delta", "thinking": text }));
    let says = |text: &str| delta(1, json!({ "type": "text_delta", "text": text }));
    let uses = |text: &str| delta(2, json!({ "type": "input_json_delta", "partial_json": text }));
    let usage = json!({ "input_tokens": 5, "output_tokens": 1 });
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "test", "content": [], "stop_reason": null,
        "stop_sequence": null, "usage": usage,
    });
    let events = [
        json!({ "type": "message_start", "message": message }),
        start(0, json!({ "type": "thinking", "thinking": "", "signature": "" })),
        json!({ "type": "ping" }),
        thinks("Let me"),
        thinks(" think."),
        delta(0, json!({ "type": "signature_delta", "signature": "c2ln" })),
        stop(0),
        start(1, json!({ "type": "text", "text": "" })),
        says("Hello"),
        says("\n\nworld é€😀"),
        json!({ "type": "ping" }),
        says("."),
        stop(1),
        start(2, json!({ "type": "tool_use", "id": "toolu_1", "name": "weather", "input": {} })),
        uses(r#"{"city":"#),
        uses(r#""Oslo"}"#),
        stop(2),
        json!({
            "type": "message_delta", "delta": { "stop_reason": "tool_use", "stop_sequence": null },
            "usage": { "output_tokens": 15 },
        }),
        json!({ "type": "message_stop" }),
    ];
    events.iter().map(named).collect()
}

/// Two runs of an AG-UI agent in one answer, which is allowed.
pub(crate) fn agent(thread: &str, run: &str) -> Blocks {
    let says = |id: &str, words: &[&str]| {
        let mut events = vec![json!({ "type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant" })];
        events
            .extend(words.iter().map(|word| json!({ "type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": word })));
        events.push(json!({ "type": "TEXT_MESSAGE_END", "messageId": id }));
        events
    };
    let run = |kind: &str| json!({ "type": kind, "threadId": thread, "runId": run });
    let mut events = vec![run("RUN_STARTED")];
    events.extend(says("m1", &["Hello", " wide"]));
    events.extend([
        json!({ "type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "weather", "parentMessageId": "m1" }),
        json!({ "type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{\"city\":" }),
        json!({ "type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "\"Oslo\"}" }),
        json!({ "type": "TOOL_CALL_END", "toolCallId": "c1" }),
        json!({ "type": "STATE_SNAPSHOT", "snapshot": { "steps": 1 } }),
        run("RUN_FINISHED"),
        run("RUN_STARTED"),
    ]);
    events.extend(says("m2", &["\n\nworld é€😀", "."]));
    events.push(run("RUN_FINISHED"));
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}
