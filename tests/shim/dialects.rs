//! What backends of some dialects say in one turn, and what a client of theirs must have made of it.

use serde_json::{Value, json};

/// A dialect.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    /// More fields of the response head, each with its line break.
    pub(super) fields: &'static str,
    /// The data of all events, given the request's body.
    pub(super) events: fn(&Value) -> Vec<String>,
    /// What the client tells it has seen.
    pub(super) seen: fn() -> Vec<String>,
    /// How many events pass before each cut: one in every kind of part that the dialect has.
    pub(super) cuts: [usize; 4],
}

fn words(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("word{n} ")).collect()
}

fn texts(events: &[Value]) -> Vec<String> {
    events.iter().map(Value::to_string).collect()
}

/// What everybody writes by hand.
pub(super) const PLAIN: Dialect = Dialect {
    fields: "",
    events: |_| words(24).iter().map(|word| word.trim().to_owned()).collect(),
    seen: || words(24).iter().map(|word| word.trim().to_owned()).collect(),
    cuts: [0, 7, 8, 20],
};

/// The AI SDK's UI message stream: reasoning, a tool, a text.
pub(super) const AI_SDK: Dialect = Dialect {
    fields: "x-vercel-ai-ui-message-stream: v1\r\n",
    events: |_| {
        let mut all = vec![json!({"type": "start", "messageId": "answer-1"}), json!({"type": "start-step"})];
        all.push(json!({"type": "reasoning-start", "id": "reasoning-1"}));
        all.extend(words(5).iter().map(|word| json!({"type": "reasoning-delta", "id": "reasoning-1", "delta": word})));
        all.push(json!({"type": "reasoning-end", "id": "reasoning-1"}));
        all.push(json!({"type": "tool-input-start", "toolCallId": "call-1", "toolName": "weather"}));
        all.extend(
            ["{\"ci", "ty\": \"Lis", "bon", "\"}"]
                .map(|delta| json!({"type": "tool-input-delta", "toolCallId": "call-1", "inputTextDelta": delta})),
        );
        let input = json!({"city": "Lisbon"});
        all.push(
            json!({"type": "tool-input-available", "toolCallId": "call-1", "toolName": "weather", "input": input}),
        );
        all.push(json!({"type": "tool-output-available", "toolCallId": "call-1", "output": {"high": 23}}));
        all.push(json!({"type": "text-start", "id": "text-1"}));
        all.extend(words(20).iter().map(|word| json!({"type": "text-delta", "id": "text-1", "delta": word})));
        all.push(json!({"type": "text-end", "id": "text-1"}));
        all.extend([json!({"type": "finish-step"}), json!({"type": "finish"})]);
        let mut texts = texts(&all);
        texts.push("[DONE]".to_owned());
        texts
    },
    seen: || {
        let reasoning = format!("reasoning {}", words(5).concat());
        let text = format!("text {}", words(20).concat());
        ["step-start", &reasoning, "tool-weather {\"city\":\"Lisbon\"}", &text]
            .map(|part| part.trim().to_owned())
            .into()
    },
    cuts: [5, 12, 20, 30],
};

/// AG-UI, and CopilotKit on it: a text, a tool.
pub(super) const AG_UI: Dialect = Dialect {
    fields: "",
    events: |request| {
        let (thread, run) = (&request["threadId"], &request["runId"]);
        let mut all = vec![json!({"type": "RUN_STARTED", "threadId": thread, "runId": run})];
        all.push(json!({"type": "TEXT_MESSAGE_START", "messageId": "answer-1", "role": "assistant"}));
        let text = |word: &String| json!({"type": "TEXT_MESSAGE_CONTENT", "messageId": "answer-1", "delta": word});
        all.extend(words(20).iter().map(text));
        all.push(json!({"type": "TEXT_MESSAGE_END", "messageId": "answer-1"}));
        all.push(json!({"type": "TOOL_CALL_START", "toolCallId": "call-1", "toolCallName": "weather",
            "parentMessageId": "answer-1"}));
        all.extend(
            ["{\"ci", "ty\": \"Lis", "bon", "\"}"]
                .map(|delta| json!({"type": "TOOL_CALL_ARGS", "toolCallId": "call-1", "delta": delta})),
        );
        all.push(json!({"type": "TOOL_CALL_END", "toolCallId": "call-1"}));
        all.push(json!({"type": "RUN_FINISHED", "threadId": thread, "runId": run}));
        texts(&all)
    },
    seen: || words(20),
    cuts: [1, 8, 15, 26],
};

/// A2A over JSON-RPC: every event is a response to the request, by its id.
pub(super) const A2A: Dialect = Dialect {
    fields: "",
    events: |request| {
        let of = |result: Value| json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
        let task = json!({"id": "task-1", "contextId": "context-1", "status": {"state": "TASK_STATE_WORKING"}});
        let mut all = vec![of(json!({"task": task}))];
        all.extend(words(20).iter().map(|word| {
            let artifact = json!({"artifactId": "artifact-1", "parts": [{"text": word}]});
            let update = json!({"taskId": "task-1", "contextId": "context-1", "artifact": artifact, "append": true});
            of(json!({"artifactUpdate": update}))
        }));
        let status = json!({"state": "TASK_STATE_COMPLETED"});
        all.push(of(json!({"statusUpdate": {"taskId": "task-1", "contextId": "context-1", "status": status}})));
        texts(&all)
    },
    seen: || words(20),
    cuts: [1, 2, 10, 21],
};
