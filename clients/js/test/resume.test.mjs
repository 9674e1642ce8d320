import assert from 'node:assert/strict';
import test from 'node:test';
import { resumableFetch, TurnError } from '../dist/resume.js';
import { event, events, holdover, TURN } from './holdover.mjs';

const RESUME = `/.holdover/turns/${TURN}/stream`;
const quick = { minDelay: 1, maxDelay: 4 };

/** A fetch that remembers the types of what it was told of. */
function remembering(options = {}) {
  const told = [];
  const fetch = resumableFetch({ ...quick, ...options, onEvent: (event) => told.push(event) });
  return { fetch, told, types: () => told.map(({ type }) => type).filter((type) => type !== 'reconnecting') };
}

const post = {
  method: 'POST',
  body: '{"prompt":"Hello"}',
  headers: { 'content-type': 'application/json', authorization: 'Bearer me', 'x-tenant': 'a' },
};

/** The error of a body, and the text before it. */
async function failed(response) {
  const decoder = new TextDecoder();
  let text = '';
  try {
    for await (const chunk of response.body) text += decoder.decode(chunk, { stream: true });
  } catch (error) {
    return { error, text };
  }
  assert.fail(`the body ended cleanly: ${JSON.stringify(text)}`);
}

for (const how of ['closed', 'reset']) {
  test(`a body goes on over connections that are ${how}`, async () => {
    let text = '';
    const waiting = new Set();
    /** Once the client has this event; at once where nothing can be lost. */
    const seen = (seq) => how === 'reset' && new Promise((has) => waiting.add(() => text.includes(event(seq)) && has()));
    const server = await holdover(
      (answer) => answer.stream().cut(events(1, 3), seen(3)),
      (answer) => answer.stream().cut(events(4, 5) + event(6).slice(0, 9), seen(5)),
      (answer) => answer.stream().cut('', seen(5)),
      (answer) => answer.stream().cut('data: to', seen(5)),
      (answer) => answer.stream().end(events(6, 8)),
    );
    const { fetch, types } = remembering();
    const response = await fetch(server.url, post);
    const decoder = new TextDecoder();
    const looking = setInterval(() => waiting.forEach((look) => look()), 5);
    for await (const chunk of response.body) text += decoder.decode(chunk, { stream: true });
    clearInterval(looking);
    assert.equal(text, events(1, 8));
    const [start, ...resumes] = server.requests;
    assert.deepEqual([start.method, start.url, start.body], ['POST', '/chat', post.body]);
    assert.deepEqual(resumes.map(({ headers }) => headers['last-event-id']), [3, 5, 5, 5].map((seq) => `${TURN}-${seq}`));
    for (const { method, url, headers } of resumes) {
      assert.deepEqual([method, url, headers.authorization, headers['x-tenant']], ['GET', RESUME, 'Bearer me', 'a']);
      assert.equal(headers['content-type'] ?? headers['content-length'], undefined);
    }
    assert.deepEqual(types(), [...Array(4).fill(['interrupted', 'resumed']).flat(), 'ended']);
  });
}

test('a connection that breaks before the first event is resumed from the start', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut('data: to'),
    (answer) => answer.stream().end(events(1, 2)),
  );
  const response = await remembering().fetch(server.url);
  assert.equal(await response.text(), events(1, 2));
  assert.equal(server.requests[1].headers['last-event-id'], undefined);
});

test('what stands behind the last whole event at a clean end is handed on', async () => {
  const server = await holdover((answer) => answer.stream().end(`${event(1)}data: no blank line`));
  const response = await remembering().fetch(server.url);
  assert.equal(await response.text(), `${event(1)}data: no blank line`);
});

test('other answers are not touched', async () => {
  const server = await holdover(
    (answer) => answer.status(200, { 'content-type': 'application/json', 'holdover-resume': RESUME }),
    (answer) => answer.status(500, { 'content-type': 'text/event-stream', 'holdover-resume': RESUME }),
    (answer) => answer.stream({ 'holdover-resume': 'http://elsewhere.example/' }).end(),
    (answer) => answer.response.writeHead(200, { 'content-type': 'text/event-stream' }).end(event(1)),
  );
  let given;
  const fetch = resumableFetch({ fetch: async (...request) => (given = await globalThis.fetch(...request)) });
  for (let n = 0; n < 4; n += 1) {
    const response = await fetch(server.url);
    assert.equal(response, given);
    await response.text();
  }
});

test('the answer looks as it did', async () => {
  const server = await holdover(
    (answer) => answer.status(302, { location: '/elsewhere' }),
    (answer) => answer.stream({ 'x-model': 'm' }).cut(events(1, 2)),
    (answer) => answer.stream().end(events(3, 4)),
  );
  const response = await remembering().fetch(server.url);
  assert.ok(response instanceof Response);
  const clone = response.clone();
  for (const { url, redirected, type, status, ok, headers } of [response, clone, clone.clone()]) {
    assert.deepEqual([url, redirected, type, status, ok], [`${server.origin}/elsewhere`, true, 'basic', 200, true]);
    assert.equal(headers.get('x-model'), 'm');
    assert.equal(headers.get('holdover-turn'), TURN);
  }
  assert.deepEqual(await Promise.all([response.text(), clone.text()]), [events(1, 4), events(1, 4)]);
  assert.ok(response.bodyUsed);
});

test('both branches of a tee get everything', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(events(1, 2)),
    (answer) => answer.stream().end(events(3, 4)),
  );
  const { body } = await remembering().fetch(server.url);
  const read = (branch) => new Response(branch).text();
  assert.deepEqual(await Promise.all(body.tee().map(read)), [events(1, 4), events(1, 4)]);
});

test('a Request, overridden, with a stream for a body', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const request = new Request(server.url, {
    method: 'POST', duplex: 'half', headers: { 'x-of': 'request', authorization: 'Bearer request' },
    body: new Blob(['streamed']).stream(),
  });
  const response = await remembering().fetch(request, { headers: { 'x-of': 'init' } });
  assert.equal(await response.text(), events(1, 2));
  const [start, resume] = server.requests;
  assert.equal(start.body, 'streamed');
  for (const { headers } of [start, resume]) assert.deepEqual([headers['x-of'], headers.authorization], ['init', undefined]);
});

test('headers are those of the moment of the call', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const headers = new Headers({ authorization: 'Bearer then' });
  const answered = remembering().fetch(server.url, { headers });
  headers.set('authorization', 'Bearer now');
  await (await answered).text();
  assert.equal(server.requests[1].headers.authorization, 'Bearer then');
});

test('credentials do not follow a redirect to another origin', async () => {
  const elsewhere = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const server = await holdover((answer) => answer.status(307, { location: elsewhere.url }));
  const response = await remembering().fetch(server.url, { headers: { authorization: 'Bearer me', 'x-tenant': 'a' } });
  assert.equal(await response.text(), events(1, 2));
  const { headers } = elsewhere.requests[1];
  assert.deepEqual([headers.authorization, headers['x-tenant']], [undefined, 'a']);
});

test('events that come again are dropped', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(events(1, 5)),
    (answer) => answer.stream({ 'holdover-from': '2' }).end(`retry: 5\n${events(3, 7)}`),
  );
  const response = await remembering().fetch(server.url);
  assert.equal(await response.text(), events(1, 7));
});

for (const state of ['completed', 'cancelled', 'superseded', undefined]) {
  test(`nothing left of a turn that is ${state ?? 'of an unknown state'}: the body ends`, async () => {
    const server = await holdover(
      (answer) => answer.stream().cut(events(1, 2)),
      (answer) => answer.status(204, state && { 'holdover-state': state }),
    );
    const { fetch, types } = remembering();
    assert.equal(await (await fetch(server.url)).text(), events(1, 2));
    assert.deepEqual(types(), ['interrupted', 'ended']);
  });
}

for (const [what, code, status, headers] of [
  ['a failed turn', 'failed', 204, { 'holdover-state': 'failed' }],
  ['an interrupted turn', 'interrupted', 204, { 'holdover-state': 'interrupted' }],
  ['an expired turn', 'expired', 204, { 'holdover-state': 'expired' }],
  ['an unknown turn', 'unknown', 404],
  ['a turn that is gone', 'unknown', 410],
  ['a gap that is refused', 'gap', 409, { 'holdover-gap': '3-9' }],
  ['a gap that is skipped', 'gap', 200, { 'holdover-gap': '3-9', 'content-type': 'text/event-stream' }],
  ['credentials that ran out', 'refused', 401],
]) {
  test(`${what} fails the body as a network does`, async () => {
    const server = await holdover(
      (answer) => answer.stream().cut(events(1, 2)),
      (answer) => answer.status(status, headers),
    );
    const { fetch, told, types } = remembering();
    const { error, text } = await failed(await fetch(server.url));
    assert.equal(text, events(1, 2));
    assert.ok(error instanceof TurnError && error instanceof TypeError);
    assert.deepEqual([error.name, error.message, error.code], ['TypeError', 'network error', code]);
    assert.ok(error.cause.message);
    assert.deepEqual(types(), ['interrupted', 'failed']);
    assert.equal(told.at(-1).error, error);
  });
}

test('a gap is skipped if the page says so, whether or not the server does', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(events(1, 2)),
    (answer) => answer.stream({ 'holdover-gap': '3-4' }).cut(events(5, 6)),
    (answer) => answer.status(409, { 'holdover-gap': '7-8' }),
    (answer) => answer.stream().end(events(9, 9)),
  );
  const { fetch, told } = remembering({ onGap: 'skip' });
  assert.equal(await (await fetch(server.url)).text(), events(1, 2) + events(5, 6) + event(9));
  assert.equal(server.requests[3].headers['last-event-id'], `${TURN}-8`);
  const gaps = told.filter(({ type }) => type === 'gap').map(({ first, last }) => [first, last]);
  assert.deepEqual(gaps, [[3, 4], [7, 8]]);
});

test('a gap without an end cannot be skipped', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(events(1, 2)),
    (answer) => answer.stream({ 'holdover-gap': '3-' }).end(),
  );
  const { error } = await failed(await remembering({ onGap: 'skip' }).fetch(server.url));
  assert.equal(error.code, 'gap');
});

test('a server in trouble is asked again, and not before it wants to be', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.status(503, { 'retry-after': '1' }),
    (answer) => answer.status(429),
    (answer) => answer.response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Log in to our network</h1>'),
    (answer) => answer.response.destroy(),
    (answer) => answer.stream().end(event(2)),
  );
  const { fetch, told } = remembering();
  assert.equal(await (await fetch(server.url)).text(), events(1, 2));
  const delays = told.filter(({ type }) => type === 'reconnecting').map(({ delay }) => delay);
  assert.deepEqual(delays.map((delay) => delay >= 1000), [false, true, false, false, false]);
});

test('it gives up when nothing comes, and asks less and less often until then', async () => {
  const broken = (answer) => answer.stream().cut('data: to');
  const server = await holdover((answer) => answer.stream().cut(event(1)), ...Array(200).fill(broken));
  const limits = { minDelay: 8, maxDelay: 32, giveUpAfter: 400 };
  const { fetch, told } = remembering(limits);
  const { error, text } = await failed(await fetch(server.url));
  assert.deepEqual([error.code, text], ['gave_up', event(1)]);
  const attempts = told.filter(({ type }) => type === 'reconnecting');
  assert.deepEqual(attempts.map(({ attempt }) => attempt), attempts.map((_, n) => n + 1));
  assert.ok(attempts.length >= 10 && attempts.length <= 8 + limits.giveUpAfter / 16, `${attempts.length} attempts`);
  attempts.forEach(({ delay, attempt }) => {
    const longest = Math.min(32, 8 * 2 ** (attempt - 1));
    assert.ok(delay >= longest / 2 && delay <= longest, `attempt ${attempt} after ${delay} ms`);
  });
  assert.equal(server.requests.length, attempts.length + 1);
});

test('a connection that is silent counts as broken', async () => {
  const server = await holdover(
    (answer) => answer.stream().send(event(1)),
    (answer) => answer.stream().send(''),
    (answer) => answer.stream().end(event(2)),
  );
  // Silence is no reason to give up.
  const response = await remembering({ idleTimeout: 100, giveUpAfter: 1 }).fetch(server.url);
  assert.equal(await response.text(), events(1, 2));
});

test('an abort ends the body with its reason, and stops the turn', async () => {
  const server = await holdover((answer) => answer.stream().send(event(1)));
  const { fetch, types } = remembering();
  const controller = new AbortController();
  const response = await fetch(server.url, { ...post, signal: controller.signal });
  const reader = response.body.getReader();
  await reader.read();
  const pending = reader.read();
  controller.abort();
  await assert.rejects(pending, { name: 'AbortError' });
  const { url, headers } = await server.request(({ method }) => method === 'DELETE');
  assert.deepEqual([url, headers.authorization], [RESUME, 'Bearer me']);
  assert.deepEqual(types(), ['stopped']);
});

test('an abort on a resumed connection, and between connections', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().send(event(2)),
    (answer) => answer.stream().cut(event(1)),
  );
  for (const [delay, until] of [[1, 2], [60_000, 1]]) {
    const { fetch, types, told } = remembering({ minDelay: delay, maxDelay: delay });
    const controller = new AbortController();
    const response = await fetch(server.url, { signal: controller.signal });
    const reader = response.body.getReader();
    for (let n = 0; n < until; n += 1) await reader.read();
    const pending = reader.read();
    if (until === 1) while (!told.some(({ type }) => type === 'reconnecting')) await new Promise(setImmediate);
    const reason = new Error('enough');
    controller.abort(reason);
    await assert.rejects(pending, reason);
    await server.request(({ method }) => method === 'DELETE');
    server.requests.splice(0);
    assert.equal(types().at(-1), 'stopped');
  }
});

test('a fetch below that gives up by itself is an abort, too', async () => {
  const server = await holdover((answer) => answer.stream().send(event(1)));
  const { fetch } = remembering({ fetch: (url, init) => globalThis.fetch(url, { ...init, signal: AbortSignal.timeout(300) }) });
  const { error, text } = await failed(await fetch(server.url));
  assert.deepEqual([error.name, text], ['TimeoutError', event(1)]);
});

test('a turn is stopped only if the page wants it', async () => {
  const server = await holdover(
    (answer) => answer.stream().send(event(1)),
    (answer) => answer.stream().send(event(1)),
    (answer) => answer.stream().send(event(1)),
  );
  for (const stopOnAbort of [false, async () => false, () => true]) {
    const controller = new AbortController();
    const response = await remembering({ stopOnAbort }).fetch(server.url, { signal: controller.signal });
    const read = failed(response);
    controller.abort();
    await read;
  }
  await server.request(({ method }) => method === 'DELETE');
  assert.equal(server.requests.filter(({ method }) => method === 'DELETE').length, 1);
});

test('an abort behind the end is none', async () => {
  const server = await holdover((answer) => answer.stream().end(event(1)), (answer) => answer.status(204));
  const controller = new AbortController();
  const { fetch, types } = remembering();
  await (await fetch(server.url, { signal: controller.signal })).text();
  controller.abort();
  await globalThis.fetch(server.url);
  assert.deepEqual(server.requests.map(({ method }) => method), ['GET', 'GET']);
  assert.deepEqual(types(), ['ended']);
});

test('a reader that leaves stops the turn, unless its end is close behind', async () => {
  const server = await holdover(
    async (answer) => {
      await answer.stream().send(event(1));
      await answer.closed;
    },
    async (answer) => {
      await answer.stream().send(event(1, '[DONE]'));
      setTimeout(() => answer.end(), 100);
    },
    (answer) => answer.status(204),
  );
  const { fetch, told } = remembering();
  for await (const _ of (await fetch(server.url)).body) break;
  await server.request(({ method }) => method === 'DELETE');
  for await (const _ of (await fetch(server.url)).body) break;
  // Longer than the shim looks for the end. What must not happen has no other sign.
  await new Promise((passed) => setTimeout(passed, 1500));
  assert.equal(server.requests.filter(({ method }) => method === 'DELETE').length, 1);
  assert.deepEqual(told.map(({ type }) => type), ['stopped']);
});

test('a slow reader slows the sender', async () => {
  const block = event(1, 'x'.repeat(64 * 1024));
  let taken = 0;
  const server = await holdover(async (answer) => {
    answer.stream();
    for (let seq = 1; seq <= 1600; seq += 1) {
      const sent = answer.send(event(seq, 'x'.repeat(64 * 1024)));
      await Promise.race([sent, answer.closed]);
      if (answer.response.destroyed) return;
      taken += block.length;
    }
    answer.end();
  });
  const response = await remembering({ stopOnAbort: false }).fetch(server.url);
  const reader = response.body.getReader();
  await reader.read();
  // Until nothing is taken any more.
  for (let before = -1; before !== taken; ) {
    before = taken;
    await new Promise((passed) => setTimeout(passed, 300));
  }
  assert.ok(taken < 32 * 1024 * 1024, `${taken} bytes of 100 MiB were taken ahead of the reader`);
  await reader.cancel();
});

test('a mistake in onEvent breaks no answer', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const heard = [];
  const before = process.listeners('unhandledRejection');
  process.removeAllListeners('unhandledRejection');
  process.on('unhandledRejection', (error) => heard.push(error.message));
  const fetch = resumableFetch({ ...quick, onEvent: ({ type }) => { throw new Error(type); } });
  assert.equal(await (await fetch(server.url)).text(), events(1, 2));
  await new Promise(setImmediate);
  process.removeAllListeners('unhandledRejection');
  for (const listener of before) process.on('unhandledRejection', listener);
  assert.deepEqual(heard, ['interrupted', 'reconnecting', 'resumed', 'ended']);
});
