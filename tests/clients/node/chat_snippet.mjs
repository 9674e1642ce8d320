// A chat component of `docs/clients` on a page: --snippet names the file, --url the chat's api.
//
//   --plan ask    presses its button; notes what is in localStorage when the answer has a word, and stays until it is killed
//   --plan load   shows the chat again, with the user's message and that --storage; lets the turn go on (POST --go) when the
//                 answer is there again, and ends when the chat is quiet
//
// The report has an event with the text of each paragraph at the end; its `type` is the paragraph's class.

import './node_page.mjs';
import { question } from './chat_page.mjs';
import { options, Report } from './report.mjs';

const values = options({
  snippet: { type: 'string' },
  plan: { type: 'string' },
  storage: { type: 'string', default: '{}' },
  go: { type: 'string' },
});
const { 'content-type': _, ...headers } = values.headers;
const report = new Report(values.snippet, '', values);
const network = globalThis.fetch;
globalThis.fetch = (url, init) => network(url, { ...init, headers: { ...init?.headers, ...headers } });
for (const [key, value] of Object.entries(JSON.parse(values.storage))) localStorage.setItem(key, value);

const [{ createElement }, { createRoot }, { Chat }] = await Promise.all(
  ['react', 'react-dom/client', `./snippets/${values.snippet}.mjs`].map((name) => import(name)),
);
const container = document.body.appendChild(document.createElement('div'));
const stored = values.plan === 'load' ? [question] : [];
createRoot(container).render(createElement(Chat, { id: 'a-chat', stored, api: values.url }));

/** Waits until a condition on what is shown holds. */
function until(condition) {
  return new Promise((resolve) => {
    const look = () => condition() && (observer.disconnect(), resolve());
    const observer = new window.MutationObserver(look);
    observer.observe(container, { subtree: true, childList: true, attributes: true, characterData: true });
    look();
  });
}

const paragraphs = () => [...container.querySelectorAll('p')];
const answer = () => paragraphs().findLast(({ className }) => className === 'assistant')?.textContent ?? '';
const status = () => container.querySelector('main')?.className;

if (values.plan === 'ask') {
  await until(() => container.querySelector('button'));
  container.querySelector('button').click();
  await until(answer);
  report.note({ storage: JSON.stringify(localStorage) });
  await new Promise(() => {});
}
await until(() => answer() && status() === 'streaming');
await network(values.go, { method: 'POST' });
await until(() => status() !== 'streaming');
for (const { className, textContent } of paragraphs()) report.event(null, className, textContent);
report.end(status() === 'ready' ? 'clean' : 'error');
