// A chat server as TanStack AI's documentation has it: a stream of chunks, sent by toServerSentEventsResponse without
// durability, and aborted when the client leaves.
//
// POST /chat   {"threadId", "runId", "forwardedProps": {"pause": N}}: two runs, a tool's and the answer's. With `pause` it
//              waits when it has sent N chunks, until it is told to go on
// POST /go     goes on with all turns that wait, once there are any
// GET  /stats  {"started", "finished", "aborted", "waiting", "asked", "last_event_ids": []}
//
// With --own-runs it does not call runs as the client does; --pause is for bodies that do not say. `asked` counts requests
// for the chat that are no starts. Pages of every origin may ask.
//
// Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.

import { EventEmitter, once } from 'node:events';
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { json } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { toServerSentEventsResponse } from '@tanstack/ai';

const { values: given } = parseArgs({ options: { 'own-runs': { type: 'boolean' }, pause: { type: 'string' } } });
const stats = { started: 0, finished: 0, aborted: 0, waiting: 0, asked: 0, last_event_ids: [] };
const gate = new EventEmitter().setMaxListeners(0);

/** An agent's turn: it thinks, calls a tool of the server, gets the result and answers. */
function turn({ threadId, runId }, number) {
  const run = { threadId, runId: given['own-runs'] ? `backend-run-${number}` : runId };
  const text = { messageId: `message-${number}` };
  const why = { messageId: `why-${number}` };
  const call = { toolCallId: `call-${number}` };
  return [
    { type: 'RUN_STARTED', ...run },
    { type: 'REASONING_START', ...why },
    { type: 'REASONING_MESSAGE_START', ...why, role: 'reasoning' },
    ...['The ', 'user ', 'asks.'].map((delta) => ({ type: 'REASONING_MESSAGE_CONTENT', ...why, delta })),
    { type: 'REASONING_MESSAGE_END', ...why },
    { type: 'REASONING_END', ...why },
    { type: 'TOOL_CALL_START', ...call, toolCallName: 'weather', toolName: 'weather' },
    ...['{"ci', 'ty":"Ul', 'm"}'].map((delta) => ({ type: 'TOOL_CALL_ARGS', ...call, delta })),
    { type: 'TOOL_CALL_END', ...call, toolCallName: 'weather', toolName: 'weather', input: { city: 'Ulm' } },
    { type: 'TOOL_CALL_RESULT', ...call, messageId: `result-${number}`, content: '{"degrees":21}', role: 'tool' },
    { type: 'RUN_FINISHED', ...run, finishReason: 'tool_calls' },
    { type: 'RUN_STARTED', ...run },
    { type: 'TEXT_MESSAGE_START', ...text, role: 'assistant' },
    ...['t1 ', 't2 ', 't3 ', 't4 '].map((delta) => ({ type: 'TEXT_MESSAGE_CONTENT', ...text, delta })),
    { type: 'TEXT_MESSAGE_END', ...text },
    { type: 'RUN_FINISHED', ...run, finishReason: 'stop' },
  ];
}

async function* say(chunks, pause, signal) {
  for (const [sent, chunk] of chunks.entries()) {
    if (sent === pause) {
      stats.waiting += 1;
      gate.emit('waits');
      await once(gate, 'go', { signal }).catch(() => {});
      stats.waiting -= 1;
    }
    if (signal.aborted) return;
    yield chunk;
  }
}

async function chat(request, response) {
  const input = await json(request);
  stats.started += 1;
  const abortController = new AbortController();
  response.on('close', () => {
    if (response.writableFinished) return;
    stats.aborted += 1;
    abortController.abort();
  });
  response.on('finish', () => (stats.finished += 1));
  const stream = say(turn(input, stats.started), input.forwardedProps?.pause ?? (given.pause && Number(given.pause)), abortController.signal);
  const answer = toServerSentEventsResponse(stream, { abortController });
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  Readable.fromWeb(answer.body).on('error', (error) => response.destroy(error)).pipe(response);
}

/** Whoever tells turns to go on may be ahead of them. */
async function go() {
  if (stats.waiting === 0) await once(gate, 'waits');
  gate.emit('go');
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  if (request.headers['last-event-id']) stats.last_event_ids.push(request.headers['last-event-id']);
  response.setHeader('access-control-allow-origin', '*');
  response.setHeader('access-control-allow-headers', 'content-type, x-run-id');
  if (request.method === 'OPTIONS') {
    response.writeHead(204).end();
  } else if (pathname === '/stats') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(stats));
  } else if (pathname === '/go') {
    go().then(() => response.end());
  } else if (pathname === '/chat' && request.method === 'POST') {
    chat(request, response).catch((error) => response.destroy(error));
  } else {
    if (pathname === '/chat') stats.asked += 1;
    response.writeHead(404).end();
  }
});
server.listen(0, '127.0.0.1', () => console.log(`listening 127.0.0.1:${server.address().port}`));
process.stdin.resume().on('end', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
