// A service made resumable with resumable-stream, as its README uses it: `GET /turn?…` starts a stream that the backend
// answers, `GET /streams/<id>?skip=<characters>` goes on with it while it runs. Plain node:http, nothing else.
//
// server.mjs <port> <backend> <redis>

import http from 'node:http';
import { createClient } from 'redis';
import { createResumableStreamContext } from 'resumable-stream';

const [port, backend, redis] = process.argv.slice(2);
const subscriber = createClient({ url: redis });
const publisher = createClient({ url: redis });
await Promise.all([subscriber.connect(), publisher.connect()]);
const streams = createResumableStreamContext({ waitUntil: null, subscriber, publisher });

async function open(url) {
  const [, resumed] = url.pathname.match(/^\/streams\/([^/]+)$/) ?? [];
  if (resumed) {
    return [resumed, await streams.resumeExistingStream(resumed, Number(url.searchParams.get('skip')))];
  }
  const id = crypto.randomUUID();
  const answer = await fetch(backend + url.pathname + url.search);
  return [id, await streams.createNewResumableStream(id, () => answer.body.pipeThrough(new TextDecoderStream()))];
}

/** Resolves when the client has taken what was written, or is gone. */
function taken(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

const server = http.createServer(async (request, response) => {
  try {
    const [id, stream] = await open(new URL(request.url, 'http://localhost'));
    if (!stream) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-stream-id': id });
    response.flushHeaders();
    for await (const piece of stream) {
      if (response.destroyed) break;
      if (!response.write(piece)) await taken(response);
    }
    response.end();
  } catch (error) {
    console.error(error);
    response.destroy();
  }
});
server.listen({ host: '127.0.0.1', port: Number(port), backlog: 4096 });
