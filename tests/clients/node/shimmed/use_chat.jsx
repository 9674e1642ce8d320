// The AI SDK's useChat in React, without `resume`. What it reports is what React has rendered.

import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { useResumableChat } from '../snippets/use_chat.jsx';

export async function run({ url, event, error }) {
  const { promise, resolve } = Promise.withResolvers();
  createRoot(document.body.appendChild(document.createElement('main'))).render(<Chat api={url} done={resolve} />);
  const { status, messages, failure } = await promise;
  if (failure) error(failure.message);
  if (status !== 'ready') error(`status ${status}`);
  const [, answer, ...more] = messages;
  if (more.length > 0) error(`${more.length} messages too many`);
  // What React has made of it, a part per line.
  if (document.querySelector('article:last-of-type').textContent !== textOf(answer)) error('what is rendered differs');
  for (const { type, text, input } of answer.parts) event(`${type} ${text ?? JSON.stringify(input) ?? ""}`.trim());
}

let api;

function Chat({ api: url, done }) {
  api ??= url;
  const { messages, status, error, sendMessage } = useResumableChat(api);
  useEffect(() => void sendMessage({ text: 'Hello' }), []);
  useEffect(() => {
    if (messages.length > 1 && ['ready', 'error'].includes(status)) done({ status, messages, failure: error });
  }, [status, messages]);
  return messages.map((message) => <article key={message.id}>{textOf(message)}</article>);
}

const textOf = ({ parts }) => parts.filter(({ type }) => type === 'text').map(({ text }) => text).join('');
