import assert from 'node:assert/strict';
import test from 'node:test';
import { Blocks, idOf, join } from '../src/blocks.ts';

const bytes = (text) => new TextEncoder().encode(text);
const text = (bytes) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);

/** The pieces of a stream that comes in chunks of this size, and what is left. */
function cut(stream, size) {
  const all = bytes(stream);
  const blocks = new Blocks();
  const pieces = [];
  for (let at = 0; at < all.length; at += size) pieces.push(...blocks.take(all.slice(at, at + size)));
  return { pieces: pieces.map(text), rest: text(blocks.rest()) };
}

/** Line ends that were cut in two belong to the next piece, so pieces are compared without what is between events. */
const trimmed = (pieces) => pieces.map((piece) => piece.replace(/^\n|[\r\n]+$/g, '')).filter(Boolean);

for (const [name, end] of [['LF', '\n'], ['CR', '\r'], ['CRLF', '\r\n']]) {
  test(`events come whole however they are chunked: ${name}`, () => {
    const events = ['data: one', `event: x${end}data: zwö${end}id: t-2`, `data${end}data: {"a":"\u2028id: no"}`];
    const stream = `${events.map((event) => event + end + end).join('')}data: torn`;
    for (let size = 1; size <= stream.length + 4; size += 1) {
      const { pieces, rest } = cut(stream, size);
      assert.equal(pieces.join('') + rest, stream, 'byte for byte');
      assert.deepEqual(trimmed(pieces), events, `in chunks of ${size}`);
      assert.equal(rest.replace(/^\n/, ''), 'data: torn');
    }
  });
}

test('comment lines in front of an event go ahead of it, and no other line does', () => {
  assert.deepEqual(cut(':\n', 9), { pieces: [':\n'], rest: '' });
  assert.deepEqual(cut(': a\r\n: b\r\ndata: x\r\n', 100), { pieces: [': a\r\n', ': b\r\n'], rest: 'data: x\r\n' });
  assert.deepEqual(cut('retry: 5\n', 100), { pieces: [], rest: 'retry: 5\n' });
  assert.deepEqual(cut('data: x\n: late\n\n:\n', 100).pieces, ['data: x\n: late\n\n', ':\n']);
});

test('a BOM stays where it is', () => {
  for (const size of [1, 2, 100]) {
    assert.deepEqual(trimmed(cut('\ufeffdata: x\nid: t-1\n\ndata: y\n\n', size).pieces), ['\ufeffdata: x\nid: t-1', 'data: y']);
  }
});

test('a chunk may be used again by whoever gave it', () => {
  const chunk = bytes('data: one\n\ndata: t');
  const blocks = new Blocks();
  const [piece] = blocks.take(chunk);
  chunk.fill(0);
  assert.equal(text(piece), 'data: one\n\n');
  assert.equal(text(blocks.rest()), 'data: t');
});

test('the id of a block is that of its last id line', () => {
  for (const [block, id] of [
    ['data: x\nid: t-1\n\n', 't-1'],
    ['id:t-2\rdata: x\r\r', 't-2'],
    ['\n\ufeffid: t-3\r\nid: t-4\r\ndata: x\r\n\r\n', 't-4'],
    ['data: id: no\nidea: no\n\n', undefined],
    [': id: no\n', undefined],
  ]) {
    assert.equal(idOf(bytes(block)), id, JSON.stringify(block));
  }
});

test('random bytes come out as they went in', () => {
  const words = ['\n', '\r', '\r\n', 'data: x', ':', 'id: t-1', '\ufeff', 'é'];
  let state = 7;
  const random = (below) => (state = (state * 48271) % 2147483647) % below;
  for (let round = 0; round < 2000; round += 1) {
    const stream = Array.from({ length: random(12) }, () => words[random(words.length)]).join('');
    const { pieces, rest } = cut(stream, 1 + random(5));
    assert.equal(pieces.join('') + rest, stream);
    assert.equal(text(join(pieces.map(bytes))), pieces.join(''));
  }
});
