// `useChat` of TanStack AI on a page, over fetchServerSentEvents, with its messages in localStorage. It resumes by itself.
//
//   --plan start    for each of --turns a thread of its own, <thread>-1 and so on: sends a message
//   --plan leave    sends a message whose turn pauses (--pause); notes what is in localStorage when something of the answer is
//                   there, and stays until it is killed: a page that is reloaded runs no more code
//   --plan join     loads the page with that in its localStorage (--storage), and lets the turn go on (POST --go) when the
//                   answer streams again
//
// The report has an event per part of the assistant's messages of the last page: `id` is the thread's and the message's
// place. An error is what the hook reports as one, or an answer that is no event stream.

import './node_page.mjs';
import { answers, openPage } from './chat_page.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  thread: { type: 'string', default: 'a-thread' },
  plan: { type: 'string', default: 'start' },
  turns: { type: 'string', default: '1' },
  pause: { type: 'string' },
  storage: { type: 'string', default: '{}' },
  go: { type: 'string' },
});
const [React, { createRoot }, { fetchServerSentEvents, localStoragePersistence, useChat }] = await Promise.all(
  ['react', 'react-dom/client', '@tanstack/ai-react'].map((name) => import(name)),
);
const report = new Report('TanStack AI', versionOf('@tanstack/ai-react'), values);
const { 'content-type': _, ...headers } = values.headers;
for (const [key, value] of Object.entries(JSON.parse(values.storage))) localStorage.setItem(key, value);
const forwardedProps = values.pause ? { pause: Number(values.pause) } : {};

/** A fetch that counts event streams; that a connection is refused or cut is the library's affair. */
const fetchClient = async (input, init) => {
  const response = await fetch(input, init);
  if (response.headers.get('content-type')?.startsWith('text/event-stream')) report.open();
  else report.error(`${init.method} ${response.status}`);
  return response;
};

function load(threadId) {
  const connection = fetchServerSentEvents(values.url, { headers, fetchClient });
  const persistence = localStoragePersistence();
  const onError = (error) => report.error(error);
  return openPage({ React, createRoot }, () => useChat({ connection, threadId, persistence, forwardedProps, onError }));
}

function tell(threadId, { messages }) {
  for (const [place, message] of messages.filter(({ role }) => role === 'assistant').entries()) {
    for (const part of message.parts) report.event(`${threadId} ${place}`, part.type, JSON.stringify(part));
  }
}

async function ask(page) {
  await page.until(() => true);
  const sent = page.state.sendMessage('Weather in Ulm?');
  await page.until(({ isLoading }) => isLoading);
  return sent;
}

const plans = {
  async start() {
    for (let turn = 1; turn <= Number(values.turns); turn += 1) {
      const thread = `${values.thread}-${turn}`;
      const page = load(thread);
      await ask(page);
      await page.until(({ isLoading }) => !isLoading);
      tell(thread, page.state);
      page.close();
      report.note({ turn });
    }
  },
  async leave() {
    const page = load(values.thread);
    ask(page);
    await page.until((state) => answers(state) && state.messages.at(-1).parts.some(({ type }) => type === 'text'));
    report.note({ storage: JSON.stringify(localStorage) });
    await new Promise(() => {});
  },
  async join() {
    const page = load(values.thread);
    await report.until(() => report.opens > 0);
    await page.until(({ isLoading }) => isLoading);
    await fetch(values.go, { method: 'POST' });
    // Before it has joined the run, the page is quiet, too: it shows what was stored.
    const answered = ({ messages }) => messages.at(-1).parts.some(({ type }) => type === 'text');
    tell(values.thread, await page.until((state) => !state.isLoading && answered(state)));
  },
};

await plans[values.plan]();
report.end('clean');
