// The AI SDK's `Chat` with WorkflowChatTransport of @ai-sdk/workflow, which resumes by itself. --url is the chat's api.
//
//   --plan start      for each of --turns a chat of its own, <chat>-1 and so on: sends a message
//   --plan tail       loads a page that knows the run (--run) and wants its last parts from --start-index on
//
// --body is merged into the request's. The report has an event per part of the assistant's messages: `id` is the chat's and
// the message's. What the transport warns of counts as an error, and so does an error of the chat.

import { Chat } from '@ai-sdk/react';
import { WorkflowChatTransport } from '@ai-sdk/workflow/client';
import { question } from './chat_page.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  chat: { type: 'string', default: 'a-chat' },
  plan: { type: 'string', default: 'start' },
  turns: { type: 'string', default: '1' },
  run: { type: 'string' },
  'start-index': { type: 'string', default: '0' },
});
const report = new Report('WorkflowChatTransport', versionOf('@ai-sdk/workflow'), values);
console.warn = (text) => report.error(text);
const body = JSON.parse(values.body ?? '{}');

function open(id, settings, messages) {
  const transport = new WorkflowChatTransport({ api: values.url, fetch: report.fetch, ...settings });
  return new Chat({ id, messages, transport, onError: (error) => report.error(error) });
}

function tell({ id, messages, status }) {
  for (const message of messages.filter(({ role }) => role === 'assistant')) {
    for (const part of message.parts) report.event(`${id} ${message.id}`, part.type, JSON.stringify(part));
  }
  if (status !== 'ready') report.error(`status ${status}`);
}

const plans = {
  async start() {
    for (let turn = 1; turn <= Number(values.turns); turn += 1) {
      const chat = open(`${values.chat}-${turn}`, {}, []);
      await chat.sendMessage({ text: 'Weather in Ulm?' }, { body });
      tell(chat);
      report.note({ turn });
    }
  },
  async tail() {
    const api = `${values.url}/${values.run}/stream`;
    const prepareReconnectToStreamRequest = () => ({ api });
    const initialStartIndex = Number(values['start-index']);
    const chat = open(values.chat, { prepareReconnectToStreamRequest, initialStartIndex }, [question]);
    await chat.resumeStream();
    tell(chat);
  },
};

await plans[values.plan]();
report.end('clean');
