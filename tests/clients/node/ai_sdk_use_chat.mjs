// `useChat` of the AI SDK on a page, with DefaultChatTransport. --url is the chat's api, --major the SDK's, --chat its id.
//
//   --plan start      sends a message; ends when the chat is quiet
//   --plan resume     loads the page with `resume: true`; ends when the chat is quiet
//   --plan stop       sends a message, and calls the SDK's stop() when the answer begins
//   --plan reload     for each N of --pauses (comma-separated) a chat of its own, <chat>-1 and so on: sends a message whose
//                     turn pauses behind N chunks; when that fails, reloads the page with `resume: true`, and lets the turn
//                     go on (POST --go) when the answer is there again
//   --plan tabs       sends a message whose turn pauses (--pauses); loads the page a second time, and lets the turn go on
//                     when the answer has begun there, too
//
// --body is merged into the request's. The report has an event per part of the assistant's messages of the last page
// (with tabs: of both pages): `id` is the chat's and the message's.

import './node_page.mjs';
import { answers, majors, openPage, question, rests } from './chat_page.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  major: { type: 'string', default: '7' },
  chat: { type: 'string', default: 'a-chat' },
  plan: { type: 'string', default: 'start' },
  pauses: { type: 'string', default: '' },
  go: { type: 'string' },
});
const { sdk, react } = majors[values.major];
const [React, { createRoot }, { useChat }, { DefaultChatTransport }] = await Promise.all(
  ['react', 'react-dom/client', react, sdk].map((name) => import(name)),
);
const report = new Report('useChat', versionOf(react), values);
const pauses = values.pauses.split(',').filter(Boolean).map(Number);
const { 'content-type': _, ...headers } = values.headers;
const body = JSON.parse(values.body ?? '{}');

/** Loads the page of a chat; `tolerant` where the connection is going to be cut. */
function load(chat, resume, { tolerant = false } = {}) {
  const transport = new DefaultChatTransport({ api: values.url, headers, fetch: report.fetch });
  const onError = (error) => tolerant || report.error(error);
  const settings = { id: chat, transport, resume, onError, messages: resume ? [question] : [] };
  return openPage({ React, createRoot }, () => useChat(settings));
}

async function ask(page, more = {}) {
  await page.until(() => true);
  page.state.sendMessage({ text: 'Weather in Ulm?' }, { body: { ...body, ...more } });
  await page.until(({ status }) => status !== 'ready');
}

function tell(chat, { messages }) {
  for (const message of messages.filter(({ role }) => role === 'assistant')) {
    for (const part of message.parts) report.event(`${chat} ${message.id}`, part.type, JSON.stringify(part));
  }
}

/** A page that was loaded again, once its request was answered and, if that was by a stream, something of it is there. */
async function resumed(chat) {
  const { answered, opens } = report;
  const page = load(chat, true);
  await report.until(() => report.answered > answered);
  if (report.opens > opens) await page.until(answers);
  return page;
}

const plans = {
  async start(chat) {
    const page = load(chat, false);
    await ask(page);
    tell(chat, await page.until(rests));
  },
  async resume(chat) {
    const page = await resumed(chat);
    tell(chat, await page.until(rests));
  },
  async stop(chat) {
    const page = load(chat, false);
    await ask(page);
    await page.until(answers);
    await page.state.stop();
    tell(chat, await page.until(rests));
  },
  async reload(chat) {
    for (const [index, pause] of pauses.entries()) {
      const name = `${chat}-${index + 1}`;
      const before = load(name, false, { tolerant: true });
      await ask(before, { pause });
      await before.until(({ status }) => status === 'error');
      before.close();
      const page = await resumed(name);
      await fetch(values.go, { method: 'POST' });
      tell(name, await page.until(rests));
      page.close();
      report.note({ reloaded: name });
    }
  },
  async tabs(chat) {
    const first = load(chat, false);
    await ask(first, { pause: pauses[0] });
    await first.until(answers);
    const second = await resumed(chat);
    await fetch(values.go, { method: 'POST' });
    tell(chat, await first.until(rests));
    tell(chat, await second.until(rests));
  },
};

await plans[values.plan](values.chat);
report.end('clean');
