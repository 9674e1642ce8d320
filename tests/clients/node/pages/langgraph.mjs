// A page around `Chat` of ../snippets/langgraph_chat.mjs. `window.chat` configures it; it tells what it sees through
// `window.tell`.

import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { Chat } from '../snippets/langgraph_chat.mjs';

const { apiUrl, threadId, headers } = window.chat;
const root = document.body.appendChild(document.createElement('main'));

const said = () => root.querySelector('p.ai, p.AIMessageChunk')?.textContent ?? '';
const [hello, stop] = [0, 1].map((n) => () => root.querySelectorAll('button')[n]);
let before = { text: '', loading: false };
new MutationObserver(() => {
  const now = { text: said(), loading: hello().disabled };
  if (now.text !== before.text || now.loading !== before.loading) void window.tell(now);
  before = now;
}).observe(root, { subtree: true, childList: true, characterData: true, attributes: true });

createRoot(root).render(
  createElement(Chat, {
    apiUrl,
    threadId,
    apiKey: null,
    defaultHeaders: headers,
    onError: (error) => void window.failed(`${error?.name}: ${error?.message}`),
  }),
);

window.sayHello = () => hello().click();
window.stop = () => stop().click();
