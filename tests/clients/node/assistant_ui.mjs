// `useChatRuntime` of assistant-ui on a page, with AssistantChatTransport and its `resumable` storage. --url is the chat's
// api, --resume where streams are resumed: the stream's id is put behind it.
//
// Sends a message whose turn pauses; when something of the answer is there, leaves the page and loads it again; lets the turn
// go on (POST --go) when the answer is there again. Ends when the thread is quiet. The report has an event per part of the
// assistant's messages of the second page.

import './node_page.mjs';
import { answers, openPage, question } from './chat_page.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({ resume: { type: 'string' }, go: { type: 'string' } });
const [React, { createRoot }, { AssistantRuntimeProvider, useAui, useAuiState }, sdk] = await Promise.all(
  ['react', 'react-dom/client', '@assistant-ui/react', '@assistant-ui/ai-sdk'].map((name) => import(name)),
);
const { AssistantChatTransport, createResumableSessionStorage, useChatRuntime } = sdk;
const report = new Report('assistant-ui', versionOf('@assistant-ui/ai-sdk'), values);
const body = JSON.parse(values.body ?? '{}');

function load(messages) {
  const storage = createResumableSessionStorage();
  const resumable = { storage, resumeApi: (id) => `${values.resume}/${id}/stream` };
  const transport = new AssistantChatTransport({ api: values.url, body, fetch: report.fetch, resumable });
  const onError = (error) => report.error(error);
  const page = openPage(
    { React, createRoot },
    () => ({
      aui: useAui(),
      messages: useAuiState(({ thread }) => thread.messages).map(({ content, ...rest }) => ({ parts: content, ...rest })),
      isRunning: useAuiState(({ thread }) => thread.isRunning),
    }),
    function Shell({ children }) {
      const runtime = useChatRuntime({ transport, messages, onError, onResumeError: onError });
      return React.createElement(AssistantRuntimeProvider, { runtime }, children);
    },
  );
  return { page, storage };
}

const first = load([]);
await first.page.until(() => true);
first.page.state.aui.thread().append({ role: 'user', content: [{ type: 'text', text: 'Weather in Ulm?' }] });
await first.page.until(answers);
report.note({ stored: first.storage.getStreamId() });
first.page.close();

const second = load([question]);
await second.page.until(answers);
await fetch(values.go, { method: 'POST' });
const { messages } = await second.page.until(({ isRunning }) => !isRunning);
for (const message of messages.filter(({ role }) => role === 'assistant')) {
  for (const part of message.parts) report.event(null, part.type, JSON.stringify(part));
}
report.note({ stored: second.storage.getStreamId() });
report.end('clean');
