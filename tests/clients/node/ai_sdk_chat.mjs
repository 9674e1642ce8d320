// The AI SDK's chat (`Chat` of @ai-sdk/react over DefaultChatTransport): sends one user message to --url and reports
// the assistant message it ends with: an event per part, its `data` the part's text. `clean` is status `ready`.
//
// --body {"id": "<chat>", "text": "<prompt>", …}; what else is in it goes into the request body.

import { Chat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { options, Report, versionOf } from './report.mjs';

const values = options();
const report = new Report('ai', versionOf('ai'), values);
const { id = 'chat', text = 'Hello', ...body } = JSON.parse(values.body ?? '{}');

const transport = new DefaultChatTransport({ api: values.url, headers: values.headers, fetch: report.fetch });
const chat = new Chat({ id, transport, onError: (error) => report.error(error) });
await chat.sendMessage({ text }, { body });

for (const message of chat.messages.filter(({ role }) => role === 'assistant')) {
  for (const part of message.parts) report.event(message.id, part.type, part.text ?? JSON.stringify(part));
}
report.end(chat.status === 'ready' ? 'clean' : 'error');
