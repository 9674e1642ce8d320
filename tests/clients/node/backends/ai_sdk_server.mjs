// A chat server as the AI SDK's documentation has it: streamText over a model, cancelled when the client leaves. The
// model is the SDK's own mock, so a turn costs nothing and says the same every time.
//
// POST /api/chat   {"id", "messages", "events": 20, "pace_ms": 5}: one text of `events` words, t1 t2 …
// GET  /stats      {"started", "finished", "aborted", "last_event_ids": []}
//
// Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.

import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import {
  convertToModelMessages,
  pipeUIMessageStreamToResponse,
  simulateReadableStream,
  streamText,
  toUIMessageStream,
} from 'ai';
import { MockLanguageModelV4 } from 'ai/test';

const stats = { started: 0, finished: 0, aborted: 0, last_event_ids: [] };
const usage = {
  inputTokens: { total: 1, noCache: 1, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 1, text: 1, reasoning: undefined },
};

function model(events, pace) {
  const words = Array.from({ length: events }, (_, i) => ({ type: 'text-delta', id: 'text', delta: `t${i + 1} ` }));
  const chunks = [
    { type: 'text-start', id: 'text' },
    ...words,
    { type: 'text-end', id: 'text' },
    { type: 'finish', finishReason: { unified: 'stop', raw: undefined }, usage },
  ];
  const stream = simulateReadableStream({ chunks, initialDelayInMs: null, chunkDelayInMs: pace });
  return new MockLanguageModelV4({ doStream: async () => ({ stream }) });
}

async function chat(request, response) {
  const { messages, events = 20, pace_ms: pace = 5 } = await json(request);
  const turn = (stats.started += 1);
  const gone = new AbortController();
  response.on('close', () => {
    if (response.writableFinished) return;
    stats.aborted += 1;
    gone.abort();
  });
  response.on('finish', () => (stats.finished += 1));
  const { stream } = streamText({
    model: model(events, pace),
    messages: await convertToModelMessages(messages),
    abortSignal: gone.signal,
  });
  const parts = toUIMessageStream({ stream, generateMessageId: () => `message-${turn}` });
  await pipeUIMessageStreamToResponse({ response, stream: parts });
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  if (request.headers['last-event-id']) stats.last_event_ids.push(request.headers['last-event-id']);
  if (pathname === '/stats') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(stats));
  } else if (pathname === '/api/chat' && request.method === 'POST') {
    chat(request, response).catch((error) => response.destroy(error));
  } else {
    response.writeHead(404).end();
  }
});
server.listen(0, '127.0.0.1', () => console.log(`listening 127.0.0.1:${server.address().port}`));
process.stdin.resume().on('end', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
