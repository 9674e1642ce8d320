// A chat server as the AI SDK's documentation has it: streamText over a model, cancelled when the client leaves. The
// model is the SDK's own mock, so a turn costs nothing and says the same every time.
//
// POST /api/chat             {"id", "messages", "events": 20, "pace_ms": 5}: one text of `events` words, t1 t2 …
//      "parts": true         before the text, reasoning and the call of a tool
//      "pause": N            the model waits when it has sent N chunks, until it is told to go on
// POST /go                   goes on with all turns that wait, once there are any
// POST /api/chat/<id>/stop   with --stops: aborts the turn of this chat, which then ends with an `abort` part
// GET  /stats                {"started", "finished", "aborted", "waiting", "asked", "last_event_ids": []}
//
// `asked` counts requests for chats that are no starts. Pages of every origin may ask.
//
// --events and --pause are for bodies that do not say. Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.

import { EventEmitter, once } from 'node:events';
import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import {
  convertToModelMessages,
  isStepCount,
  jsonSchema,
  pipeUIMessageStreamToResponse,
  streamText,
  tool,
  toUIMessageStream,
} from 'ai';
import { MockLanguageModelV4 } from 'ai/test';

const { values: given } = parseArgs({
  options: { stops: { type: 'boolean' }, events: { type: 'string' }, pause: { type: 'string' } },
});
const { stops } = given;
const defaults = { events: Number(given.events ?? 20), pause: given.pause && Number(given.pause) };
const stats = { started: 0, finished: 0, aborted: 0, waiting: 0, asked: 0, last_event_ids: [] };
const gate = new EventEmitter().setMaxListeners(0);
const running = new Map(); // chat → what aborts its turn
const usage = {
  inputTokens: { total: 1, noCache: 1, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 1, text: 1, reasoning: undefined },
};
const weather = tool({
  inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } } }),
  execute: ({ city }) => ({ city, degrees: 21 }),
});

const finish = (unified) => ({ type: 'finish', finishReason: { unified, raw: undefined }, usage });

const call = [
  { type: 'reasoning-start', id: 'why' },
  ...['The ', 'user ', 'asks.'].map((delta) => ({ type: 'reasoning-delta', id: 'why', delta })),
  { type: 'reasoning-end', id: 'why' },
  { type: 'tool-input-start', id: 'call-1', toolName: 'weather' },
  ...['{"ci', 'ty":"Ul', 'm"}'].map((delta) => ({ type: 'tool-input-delta', id: 'call-1', delta })),
  { type: 'tool-input-end', id: 'call-1' },
  { type: 'tool-call', toolCallId: 'call-1', toolName: 'weather', input: '{"city":"Ulm"}' },
  finish('tool-calls'),
];

const text = (events) => [
  { type: 'text-start', id: 'text' },
  ...Array.from({ length: events }, (_, i) => ({ type: 'text-delta', id: 'text', delta: `t${i + 1} ` })),
  { type: 'text-end', id: 'text' },
  finish('stop'),
];

/** A model that says one list of chunks per step. */
function model(steps, pace, pause, signal) {
  let sent = 0;
  async function* say(chunks) {
    for (const chunk of chunks) {
      if (sent === pause) {
        stats.waiting += 1;
      gate.emit('waits');
        await once(gate, 'go', { signal }).catch(() => {});
        stats.waiting -= 1;
      } else if (pace) {
        await sleep(pace, undefined, { signal }).catch(() => {});
      }
      if (signal.aborted) return;
      sent += 1;
      yield chunk;
    }
  }
  return new MockLanguageModelV4({ doStream: async () => ({ stream: ReadableStream.from(say(steps.shift())) }) });
}

async function chat(request, response) {
  const { id, messages, events, pace_ms: pace = 5, parts = false, pause } = { ...defaults, ...(await json(request)) };
  const turn = (stats.started += 1);
  const gone = new AbortController();
  response.on('close', () => {
    if (response.writableFinished) return;
    stats.aborted += 1;
    gone.abort();
  });
  response.on('finish', () => (stats.finished += 1));
  running.set(id, gone);
  const { stream } = streamText({
    model: model(parts ? [call, text(events)] : [text(events)], pace, pause, gone.signal),
    tools: { weather },
    stopWhen: isStepCount(3),
    messages: await convertToModelMessages(messages),
    abortSignal: gone.signal,
  });
  const ui = toUIMessageStream({ stream, generateMessageId: () => `message-${turn}` });
  await pipeUIMessageStreamToResponse({ response, stream: ui });
}

/** Whoever tells turns to go on may be ahead of them. */
async function go() {
  if (stats.waiting === 0) await once(gate, 'waits');
  gate.emit('go');
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  if (request.headers['last-event-id']) stats.last_event_ids.push(request.headers['last-event-id']);
  response.setHeader('access-control-allow-origin', '*').setHeader('access-control-allow-headers', 'content-type');
  const stopped = stops && request.method === 'POST' && pathname.match(/^\/api\/chat\/([^/]+)\/stop$/);
  if (request.method === 'OPTIONS') {
    response.writeHead(204).end();
  } else if (pathname === '/stats') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(stats));
  } else if (pathname === '/go') {
    go().then(() => response.end());
  } else if (stopped) {
    running.get(decodeURIComponent(stopped[1]))?.abort();
    response.end('stopping');
  } else if (pathname === '/api/chat' && request.method === 'POST') {
    chat(request, response).catch((error) => response.destroy(error));
  } else {
    if (pathname.startsWith('/api/chat/')) stats.asked += 1;
    response.writeHead(404).end();
  }
});
server.listen(0, '127.0.0.1', () => console.log(`listening 127.0.0.1:${server.address().port}`));
process.stdin.resume().on('end', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
