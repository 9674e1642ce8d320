// Says what Chromium's EventSource makes of a byte stream, for comparing parsers.
//
// Input: JSON lines {"bytes": "<base64>"}. Output: for each, in order, {"events": [{"id", "type", "data"}]}.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { launch, openPage } from './browser.mjs';

/** Every type a stream could name; one that it does not dispatch after all does no harm. */
function typesIn(bytes) {
  const lines = bytes.toString().replace(/^\uFEFF/, '').split(/\r\n|\r|\n/);
  const named = lines.filter((line) => line.startsWith('event:')).map((line) => line.slice(6).replace(/^ /, ''));
  return [...new Set(['message', ...named])];
}

const streams = [];
for await (const line of createInterface({ input: process.stdin })) {
  if (line) streams.push(Buffer.from(JSON.parse(line).bytes, 'base64'));
}

const server = createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.end(streams[Number(request.url.slice(1))]);
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const { browser } = await launch();
const page = await openPage(browser, `http://127.0.0.1:${server.address().port}`);

for (const [index, bytes] of streams.entries()) {
  const events = await page.evaluate(
    ([url, types]) =>
      new Promise((resolve) => {
        const seen = [];
        const source = new EventSource(url);
        for (const type of types) {
          source.addEventListener(type, (event) => {
            if (event instanceof MessageEvent) seen.push({ id: event.lastEventId, type: event.type, data: event.data });
          });
        }
        source.addEventListener('error', (event) => {
          if (event instanceof MessageEvent) return;
          source.close();
          resolve(seen);
        });
      }),
    [`/${index}`, typesIn(bytes)],
  );
  process.stdout.write(`${JSON.stringify({ events })}\n`);
}
process.stdout.write('', () => process.exit()); // not before the pipe has taken all of it
