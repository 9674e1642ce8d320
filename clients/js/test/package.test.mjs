import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import test from 'node:test';
import vm from 'node:vm';
import { gzipSync } from 'node:zlib';
import * as module from '../dist/resume.js';
import { event, events, holdover } from './holdover.mjs';

const file = (name) => readFileSync(new URL(`../dist/${name}`, import.meta.url));

test('it is smaller than 3 kB', () => {
  const { length } = gzipSync(file('resume.js'), { level: 9 });
  assert.ok(length < 3000, `${length} bytes`);
});

test('the package gives the same to import and to require', () => {
  const required = createRequire(import.meta.url)('@holdover/resume');
  assert.deepEqual(Object.keys(required).sort(), ['TurnError', 'install', 'resumableFetch']);
  assert.deepEqual(Object.keys(module).sort(), Object.keys(required).sort());
});

test('install replaces the global fetch, and gives it back', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const before = globalThis.fetch;
  const uninstall = module.install({ minDelay: 1 });
  assert.notEqual(globalThis.fetch, before);
  assert.equal(await (await fetch(server.url)).text(), events(1, 2));
  uninstall();
  assert.equal(globalThis.fetch, before);
});

test('what was put over it since is left alone', () => {
  const before = globalThis.fetch;
  const uninstall = module.install();
  const theirs = () => {};
  globalThis.fetch = theirs;
  uninstall();
  assert.equal(globalThis.fetch, theirs);
  globalThis.fetch = before;
});

test('one inside another resumes once', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const told = [];
  const onEvent = ({ type }) => told.push(type);
  const inner = module.resumableFetch({ minDelay: 1, onEvent });
  const outer = module.resumableFetch({ fetch: inner, minDelay: 1, onEvent });
  assert.equal(await (await outer(server.url)).text(), events(1, 2));
  assert.deepEqual(told, ['interrupted', 'reconnecting', 'resumed', 'ended']);
});

test('the classic script installs itself', () => {
  const page = vm.createContext({ fetch: () => {}, TextDecoder });
  const before = page.fetch;
  vm.runInContext(file('resume.classic.js').toString(), page);
  assert.notEqual(page.fetch, before);
  page.holdover.uninstall();
  assert.equal(page.fetch, before);
});

test('events are told where pages listen', async () => {
  const server = await holdover(
    (answer) => answer.stream().cut(event(1)),
    (answer) => answer.stream().end(event(2)),
  );
  const target = new EventTarget();
  globalThis.dispatchEvent = (event) => target.dispatchEvent(event);
  const heard = [];
  for (const type of ['interrupted', 'reconnecting', 'resumed', 'ended']) {
    target.addEventListener(`holdover:${type}`, ({ detail }) => heard.push([detail.type, detail.url]));
  }
  await (await module.resumableFetch({ minDelay: 1 })(server.url)).text();
  delete globalThis.dispatchEvent;
  assert.deepEqual(heard, ['interrupted', 'reconnecting', 'resumed', 'ended'].map((type) => [type, server.url]));
});
