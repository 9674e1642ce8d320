// A server that answers as Holdover does, and breaks off when a test says so.

import { createServer } from 'node:http';
import { after } from 'node:test';

export const TURN = '2345672345672345672345672345';

/** An event as it stands on the wire. */
export function event(seq, data = `token ${seq}`, turn = TURN) {
  return `data: ${data}\nid: ${turn}-${seq}\n\n`;
}

/** Events `first` to `last`. */
export function events(first, last) {
  return Array.from({ length: last - first + 1 }, (_, n) => event(first + n)).join('');
}

/**
 * Starts a server whose n-th request is answered by the n-th of `answers`. `requests` fills with what was asked; a
 * request too many fails the test through `problems`. DELETE is answered by itself.
 */
export async function holdover(...answers) {
  const requests = [];
  const waiting = new Set();
  const server = createServer(async (request, response) => {
    const { method, url, headers } = request;
    let body = '';
    for await (const piece of request) body += piece;
    requests.push({ method, url, headers, body });
    for (const look of waiting) look();
    if (method === 'DELETE') return response.end('{"result":"stopped"}');
    const answer = answers.shift();
    if (answer) await answer(new Answer(response), request);
    else response.writeHead(400).end('one request too many');
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  const origin = `http://127.0.0.1:${server.address().port}`;
  return {
    origin,
    url: `${origin}/chat`,
    requests,
    /** Resolves with the first request for which `wanted` is true, past or to come. */
    request: (wanted) =>
      new Promise((found) => {
        const look = () => {
          const request = requests.find(wanted);
          if (!request) return;
          waiting.delete(look);
          found(request);
        };
        waiting.add(look);
        look();
      }),
  };
}

/** One answer, written step by step. */
export class Answer {
  constructor(response) {
    this.response = response;
    this.closed = new Promise((closed) => response.on('close', closed));
  }

  /** The head of a turn's stream. */
  stream(headers = {}) {
    this.response.writeHead(200, {
      'content-type': 'text/event-stream',
      'holdover-turn': TURN,
      'holdover-resume': `/.holdover/turns/${TURN}/stream`,
      ...headers,
    });
    this.response.flushHeaders();
    return this;
  }

  status(status, headers = {}) {
    this.response.writeHead(status, headers).end();
  }

  /** Resolves when the bytes have left. */
  send(bytes) {
    return new Promise((sent) => this.response.write(bytes, sent));
  }

  end(bytes) {
    this.response.end(bytes);
  }

  /** Breaks off behind these bytes: closes, or resets as soon as the client has `seen` them, since a reset takes along
   *  what is not read. */
  async cut(bytes = '', seen) {
    if (bytes) await this.send(bytes);
    await seen;
    if (seen) this.response.socket.resetAndDestroy();
    else this.response.socket.destroy();
  }
}
