// The third pane: the AI SDK's useChat as its documentation has it, and the fetch shim as its `fetch`. The library does not
// resume, and never learns that its connection broke.

import './policy.js';
import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { resumableFetch } from '../../../clients/js/src/resume.ts';

const KEY = 'holdover-demo:ai-sdk';
/** How often the backend is asked what it sees, in milliseconds, and how many times more when nothing happens any more. */
const WATCH = 700;
const LOOKS_AFTER_END = 6;

/** What the page does with its panes: `send`, `cut` and `restore`. */
export class ChatPane {
  constructor(parent, options) {
    const element = parent.appendChild(document.createElement('section'));
    element.className = 'pane';
    element.dataset.pane = 'ai-sdk';
    element.setAttribute('aria-labelledby', 'ai-sdk-name');
    this.root = createRoot(element);
    this.element = element;
    this.options = options;
    /** What the pane does on command, once it is rendered. */
    this.commands = {};
    this.rendered = 0;
  }

  send() {
    this.commands.send();
  }

  cut() {
    this.connection.cut();
  }

  /** Begins anew, with the turn that was shown before `cause`, if Holdover still has it. */
  async restore(cause) {
    const saved = JSON.parse(sessionStorage.getItem(KEY) ?? '{}');
    const kept = saved.turn && (await fetch(`/.holdover/turns/${saved.turn}`).catch(() => null))?.ok;
    const chat = saved.chat ?? crypto.getRandomValues(new Uint32Array(2)).join('');
    this.#save({ chat, turn: kept ? saved.turn : null });
    this.connection?.close();
    this.connection = new Connection((turn) => this.#save({ turn }));
    this.rendered += 1;
    this.root.render(
      <Chat key={this.rendered} pane={this} chat={chat} turn={kept ? saved.turn : null} past={kept ? [cause] : []} />,
    );
  }

  #save(changes) {
    sessionStorage.setItem(KEY, JSON.stringify({ ...JSON.parse(sessionStorage.getItem(KEY) ?? '{}'), ...changes }));
  }
}

/** The connections of the library, to be broken under it. */
class Connection {
  constructor(opened) {
    this.opened = opened;
    this.listener = () => {};
    this.resumable = resumableFetch({
      fetch: (input, init) => this.#cuttable(input, init),
      onEvent: (event) => this.listener(event),
      stopOnAbort: () => !this.closed,
      // Time to watch.
      minDelay: 2000,
    });
  }

  fetch = async (input, init) => {
    const response = await this.resumable(input, init);
    const turn = response.headers.get('Holdover-Turn');
    if (turn) this.opened(turn);
    return response;
  };

  /** Leaves, as a page that is reloaded does: the turn goes on. */
  close() {
    this.closed = true;
    this.current?.abort();
  }

  /** Breaks it as a lost network would. */
  cut() {
    this.current?.abort(new TypeError('network error'));
  }

  #cuttable(input, init = {}) {
    this.current = new AbortController();
    const signals = [this.current.signal, init.signal].filter(Boolean);
    return fetch(input, { ...init, signal: AbortSignal.any(signals) });
  }
}

function Chat({ pane, chat, turn, past: before }) {
  const { pace, address } = pane.options;
  const [connection] = useState(pane.connection);
  const [past, tell] = useState(before);
  const [text, setText] = useState('Plan a weekend in Lisbon around the weather.');
  const [transport] = useState(() => new DefaultChatTransport({
    api: '/api/ai-sdk',
    body: pace === null ? {} : { pace },
    fetch: connection.fetch,
    // After a reload the library asks for the turn that it showed.
    prepareReconnectToStreamRequest: () => ({ api: `/.holdover/turns/${turn}/stream` }),
  }));
  const { messages, status, error, sendMessage, stop } = useChat({ id: chat, transport, resume: turn !== null });
  const busy = status === 'submitted' || status === 'streaming';
  const seen = useBackend(chat, busy);

  connection.listener = ({ type }) => {
    if (type === 'interrupted') tell(['Connection cut']);
    if (type === 'reconnecting') tell(['Connection cut', 'reconnecting…']);
    if (type === 'resumed') tell(['Connection cut', 'resumed']);
    if (type === 'stopped') tell(['Stopped']);
  };
  const send = () => {
    if (busy || !text.trim()) return;
    tell([]);
    sendMessage({ text });
  };
  pane.commands = { send };
  const answer = messages.at(-1)?.role === 'assistant' ? messages.at(-1) : null;
  return (
    <>
      <header>
        <h2 id="ai-sdk-name">useChat through Holdover</h2>
        <p className="address">{address}</p>
      </header>
      <form className="ask" onSubmit={(event) => { event.preventDefault(); send(); }}>
        <label>Message <input name="message" autoComplete="off" maxLength={1000} required value={text}
          onChange={(event) => setText(event.target.value)} /></label>
        <button type="submit" className="primary">Send</button>
      </form>
      <div className="actions" role="group" aria-label="Connection">
        <button type="button" className="cut" aria-disabled={!busy} onClick={() => busy && pane.cut()}>Cut connection</button>
        <button type="button" onClick={() => pane.restore('Pane reloaded')}>Reload pane</button>
        <button type="button" aria-disabled={!busy} onClick={() => busy && stop()}>Stop</button>
      </div>
      <p className={`story${past.includes('resumed') ? ' resumed' : ''}`} role="status">{story(past, status, error, answer)}</p>
      <h3 className="visually-hidden">Answer</h3>
      <article className="answer">{answer?.parts.map((part, n) => <Part key={n} part={part} />)}</article>
      <h3>Both ends</h3>
      <dl className="ends">
        <div><dt>useChat: status</dt><dd data-part="status">{status}</dd></div>
        <div><dt>useChat: error</dt><dd data-part="error">{error?.message ?? 'none'}</dd></div>
        <div><dt>Backend: turns started</dt><dd data-count="started">{seen.turns_started}</dd></div>
        <div><dt>Backend: turns finished</dt><dd data-count="finished">{seen.turns_finished}</dd></div>
        <div><dt>Backend: turns aborted</dt><dd data-count="aborted">{seen.turns_aborted}</dd></div>
      </dl>
    </>
  );
}

/** What the backend says of the chat's turns. */
function useBackend(chat, busy) {
  const [seen, see] = useState({ turns_started: 0, turns_finished: 0, turns_aborted: 0 });
  useEffect(() => {
    let looks = 0;
    const look = async () => {
      looks += 1;
      if (!busy && looks > LOOKS_AFTER_END) return clearInterval(watch);
      const stats = await fetch('/api/stats').then((answer) => answer.json()).catch(() => null);
      if (stats?.chats[chat]) see(stats.chats[chat]);
    };
    const watch = setInterval(look, WATCH);
    look();
    return () => clearInterval(watch);
  }, [chat, busy]);
  return seen;
}

function story(past, status, error, answer) {
  const now = {
    submitted: 'sent, waiting for the answer',
    streaming: past.length === 0 ? 'receiving the answer' : '',
    error: `failed: ${error?.message}`,
    ready: past.includes('Stopped') ? '' : answer ? 'answer complete' : 'ready to send',
  }[status];
  const text = [...past, now].filter(Boolean).join(' — ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function Part({ part }) {
  if (part.type === 'text') return <p className="text">{part.text}</p>;
  if (!part.type.startsWith('tool-')) return null;
  const done = part.state === 'output-available';
  return (
    <figure className="tool">
      <figcaption>{part.type.replace('tool-', '')}<span className="state">{done ? 'done' : 'running'}</span></figcaption>
      <code className="input">{JSON.stringify(part.input)}</code>
      <dl className="output">
        {Object.entries(part.output ?? {}).map(([day, { sky, high }]) => (
          <div key={day}><dt>{day}</dt><dd>{sky}, {high} °C</dd></div>
        ))}
      </dl>
    </figure>
  );
}
