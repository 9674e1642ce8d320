// The demo page in headless Chromium, driven as a person would: send, cut, reload, open another tab, keyboard alone.
//
//   node tests/browser/demo.mjs http://127.0.0.1:PORT/ [directory for screenshots] [part of a scenario's name, or 1/3]
//
// The address is the page as served through Holdover. `playwright-core` is found as CommonJS modules are, so NODE_PATH
// may name a node_modules elsewhere; CHROMIUM names another browser. Exits 1 with what went wrong.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const { chromium } = createRequire(import.meta.url)('playwright-core');

const address = process.argv[2];
const shots = process.argv[3];
if (!address) {
  console.error('usage: node tests/browser/demo.mjs PAGE-URL [SCREENSHOT-DIRECTORY] [SCENARIO]');
  process.exit(64);
}
if (shots) mkdirSync(shots, { recursive: true });

/**
 * Milliseconds between events: a turn takes 8 s, time enough to act in its middle. A machine may be too busy for that, so
 * a scenario that fails has a second chance at the slower pace: what is wrong in the demo is wrong there, too.
 */
const PACES = [60, 300];
/** Nothing in the demo takes longer, in milliseconds; at the slower pace, a turn takes 40 s. */
const DEADLINES = [20_000, 80_000];
let [pace] = PACES;
let [deadline] = DEADLINES;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const { direct } = await (await fetch(new URL('/api/where', address))).json();
const expected = await answerOf('expected');

/** What the backend says to the first message of a chat, read without browser or proxy. */
async function answerOf(chat) {
  const body = JSON.stringify({ id: `${chat}-${Date.now()}`, message: 'What would you say?', pace: 0 });
  const text = await (await fetch(`${direct}/api/chat`, { method: 'POST', body })).text();
  const events = text.split('\n\n').filter(Boolean).map((block) => JSON.parse(block.replace('data: ', '')));
  const join = (type) => events.filter((event) => event.type === type).map((event) => event.delta).join('');
  return { count: events.length, text: join('text'), input: join('tool-arguments') };
}

// --- steps

/** Opens the page in a browser context of its own. `problems` fills with what the console and the page complain about. */
async function open() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  context.setDefaultTimeout(deadline);
  const problems = [];
  context.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  context.on('weberror', (error) => problems.push(String(error.error())));
  const page = await context.newPage();
  await page.goto(new URL(`?pace=${pace}`, address).href);
  await page.locator('.pane').last().waitFor();
  return { context, page, problems };
}

const pane = (page, name) => page.locator(`[data-pane=${name}]`);
const button = (root, name) => root.getByRole('button', { name, exact: true });

async function count(root, name) {
  return Number(await root.locator(`[data-count=${name}]`).textContent());
}

async function counts(root, ...names) {
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await count(root, name)])));
}

/** Waits until `probe` answers true, and fails with `what` and the pane's own words. */
async function until(what, root, probe) {
  const end = Date.now() + deadline;
  while (!(await probe())) {
    if (Date.now() > end) {
      assert.fail(`${what}: not within ${deadline} ms; the pane says "${await root.locator('.story').textContent()}"`);
    }
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

const received = (root, least) =>
  until(`${least} events received`, root, async () => (await count(root, 'received')) >= least);
const says = (root, text) =>
  until(`the pane says ${text}`, root, async () => text.test(await root.locator('.story').textContent()));

/** Holds back every resume until the returned function is called, so that a gap stays open while it is looked at. */
async function holdResumes(page) {
  let release;
  const released = new Promise((resolve) => { release = resolve; });
  await page.route(/\/\.holdover\/turns\/[^/]+\/stream$/, async (route) => {
    await released;
    await route.continue();
  });
  return release;
}

async function assertWholeAnswer(root) {
  assert.equal((await root.locator('.answer .text').allTextContents()).join(''), expected.text);
  assert.equal(await root.locator('.tool .input').textContent(), expected.input);
  assert.equal(await root.locator('.tool .state').textContent(), 'done');
  assert.deepEqual(await counts(root, 'received', 'lost', 'doubled'), { received: expected.count, lost: 0, doubled: 0 });
}

const textOf = async (root) => (await root.locator('.answer .text').allTextContents()).join('');
const written = (root, least) => until(`${least} characters`, root, async () => (await textOf(root)).length >= least);

/** The library is done, has the whole answer, and knows of no error. */
async function assertUseChatIsContent(root) {
  assert.equal(await textOf(root), expected.text);
  assert.deepEqual(JSON.parse(await root.locator('.tool .input').textContent()), JSON.parse(expected.input));
  assert.equal(await root.locator('.tool .state').textContent(), 'done');
  assert.equal(await root.locator('[data-part=status]').textContent(), 'ready');
  assert.equal(await root.locator('[data-part=error]').textContent(), 'none');
}

/** The backend's counters of the pane's chat, once they add up to `wanted`. */
async function backendSaw(root, wanted) {
  const names = ['started', 'finished', 'aborted'];
  const seen = async () => Object.values(await counts(root, ...names)).join();
  await until(`the backend saw ${names} = ${wanted}`, root, async () => (await seen()) === wanted.join());
}

// --- scenarios

const scenarios = {
  async 'a cut in mid-answer loses nothing through Holdover'({ page }) {
    const root = pane(page, 'holdover');
    await button(root, 'Send').click();
    await received(root, 20);
    const release = await holdResumes(page);
    await button(root, 'Cut connection').click();
    await says(root, /^Connection cut at event \d+ — resuming…$/);
    const at = await count(root, 'received');
    await until('the gap opens', root, async () => (await root.locator('.tick.gap').count()) > 0);
    release();
    await says(root, /^Connection cut at event \d+ — \d+ events recovered — answer complete$/);
    await assertWholeAnswer(root);
    const story = (await root.locator('.story').textContent()).match(/\d+/g).map(Number);
    const recovered = await count(root, 'recovered');
    assert.ok(recovered > 0);
    assert.deepEqual(story, [at, recovered]);
    assert.equal(await root.locator('.strip .tick.live').count(), expected.count - recovered);
    assert.equal(await root.locator('.strip .tick.recovered').count(), recovered);
    const turn = await root.locator('[data-part=turn]').textContent();
    assert.match(turn, /^[a-z2-7]{28}$/);
    assert.equal(await root.locator('[data-part=last]').textContent(), `${turn}-${expected.count}`);
    await backendSaw(root, [1, 1, 0]);
  },

  async 'three cuts of one answer lose nothing either'({ page }) {
    const root = pane(page, 'holdover');
    await button(root, 'Send').click();
    for (const least of [5, 40, 80]) {
      await received(root, least);
      await button(root, 'Cut connection').click();
      await says(root, /^Connection cut at event \d+ — \d+ events recovered/);
    }
    await says(root, /answer complete$/);
    await assertWholeAnswer(root);
    await backendSaw(root, [1, 1, 0]);
  },

  async 'a cut in mid-answer loses the direct answer, and the backend aborts'({ page }) {
    const root = pane(page, 'direct');
    await button(root, 'Send').click();
    await received(root, 20);
    await button(root, 'Cut connection').click();
    await says(root, /^Connection cut at event \d+ — answer lost — the backend aborted the turn$/);
    const { received: got, lost, recovered } = await counts(root, 'received', 'lost', 'recovered');
    assert.deepEqual([got + lost, recovered], [expected.count, 0]);
    assert.ok(lost > 0);
    assert.equal(await root.locator('.strip .tick.lost').count(), lost);
    await backendSaw(root, [1, 0, 1]);
  },

  async 'useChat goes on after two cuts, and never hears of them'({ page }) {
    const root = pane(page, 'ai-sdk');
    const starts = [];
    page.on('request', (request) => request.method() === 'POST' && starts.push(request.url()));
    await button(root, 'Send').click();
    await written(root, 60);
    await button(root, 'Cut connection').click();
    await says(root, /^Connection cut — reconnecting…$/);
    await says(root, /^Connection cut — resumed$/);
    const length = (await textOf(root)).length;
    await written(root, length + 40);
    await button(root, 'Cut connection').click();
    await says(root, /^Connection cut — reconnecting…$/);
    await says(root, /^Connection cut — resumed — answer complete$/);
    await assertUseChatIsContent(root);
    assert.equal(starts.length, 1);
    await backendSaw(root, [1, 1, 0]);
  },

  async 'useChat shows an answer again that a reload interrupted'({ page }) {
    const root = pane(page, 'ai-sdk');
    await button(root, 'Send').click();
    await written(root, 60);
    await button(root, 'Reload pane').click();
    await says(root, /^Pane reloaded$/);
    await written(root, 120);
    await page.reload();
    await says(root, /^Page reloaded — answer complete$/);
    await assertUseChatIsContent(root);
    await backendSaw(root, [1, 1, 0]);
  },

  async 'stop of useChat stops the turn at the backend'({ page }) {
    const root = pane(page, 'ai-sdk');
    await button(root, 'Send').click();
    await written(root, 60);
    await button(root, 'Stop').click();
    await says(root, /^Stopped$/);
    await backendSaw(root, [1, 0, 1]);
  },

  async 'without a cut both panes show the same answer'({ page }) {
    await button(page, 'Send all').click();
    for (const name of ['direct', 'holdover']) {
      const root = pane(page, name);
      await says(root, /^Answer complete$/);
      await assertWholeAnswer(root);
      assert.equal(await count(root, 'recovered'), 0);
      await backendSaw(root, [1, 1, 0]);
    }
  },

  async 'a reload of the page in mid-answer loses nothing through Holdover'({ page }) {
    const [straight, through] = [pane(page, 'direct'), pane(page, 'holdover')];
    await button(page, 'Send all').click();
    await received(straight, 20);
    await received(through, 20);
    await Promise.all([page.waitForEvent('load'), button(page, 'Reload page').click()]);
    await says(through, /^Page reloaded — \d+ events recovered — answer complete$/);
    await assertWholeAnswer(through);
    assert.ok((await count(through, 'recovered')) >= 20);
    await backendSaw(through, [1, 1, 0]);
    await says(straight, /^Page reloaded — answer lost at event \d+ of \d+ — nothing to resume from — the backend aborted/);
    assert.equal(await count(straight, 'lost'), expected.count);
  },

  async 'a reloaded pane attaches to its turn again, while it runs and after its end'({ page }) {
    const root = pane(page, 'holdover');
    await button(root, 'Send').click();
    await received(root, 20);
    for (let round = 0; round < 2; round += 1) {
      await button(root, 'Reload pane').click();
      await says(root, /^Pane reloaded — \d+ events recovered — answer complete$/);
      await assertWholeAnswer(root);
    }
    assert.equal(await count(root, 'recovered'), expected.count);
    await backendSaw(root, [1, 1, 0]);
  },

  async 'another tab follows the same turn'({ page, context }) {
    const root = pane(page, 'holdover');
    await button(root, 'Send').click();
    await received(root, 20);
    const [tab] = await Promise.all([
      context.waitForEvent('page'),
      root.getByRole('link', { name: 'Open in another tab' }).click(),
    ]);
    const second = pane(tab, 'holdover');
    await until('both followers are counted', root, async () =>
      / 2 followers$/.test(await root.locator('[data-part=status]').textContent()));
    for (const follower of [second, root]) {
      await says(follower, /answer complete$/i);
      await assertWholeAnswer(follower);
    }
    assert.ok((await count(second, 'recovered')) >= 20);
    const turns = await Promise.all([root, second].map((one) => one.locator('[data-part=turn]').textContent()));
    assert.equal(turns[0], turns[1]);
    await backendSaw(root, [1, 1, 0]);
    if (shots) await tab.screenshot({ path: join(shots, 'second-tab.png'), fullPage: true });
  },

  async 'an address from elsewhere is not followed'({ page }) {
    const asked = [];
    page.on('request', (request) => asked.push(request.url()));
    await page.goto(new URL('#follow=http%3A%2F%2F127.0.0.1%3A9%2Fsteal', address).href);
    await pane(page, 'direct').waitFor();
    assert.deepEqual(asked.filter((url) => url.includes('steal') && !url.startsWith(address)), []);
  },

  async 'the reader takes any chunking and any line end'({ page }) {
    const text = '\uFEFFdata: a\r\nid: t-1\r\n\r\n: note\ndata:b\rdata:  c\rid: t-2\r\rretry: 5\nid: t-3\n\n'
      + 'event: x\ndata\n\nid: a\0b\ndata: é\n\ndata: cut';
    for (const size of [1, 2, 3, 7, 1000]) {
      const events = await page.evaluate(async ([source, step]) => {
        const { readEvents } = await import('/stream.js');
        const bytes = new TextEncoder().encode(source);
        const chunked = new ReadableStream({
          start(stream) {
            for (let at = 0; at < bytes.length; at += step) stream.enqueue(bytes.slice(at, at + step));
            stream.close();
          },
        });
        const found = [];
        for await (const { id, data } of readEvents(chunked)) found.push([id, data]);
        return found;
      }, [text, size]);
      assert.deepEqual(events, [['t-1', 'a'], ['t-2', 'b\n c'], ['t-3', ''], ['t-3', 'é']], `in chunks of ${size} bytes`);
    }
  },

  async 'everything works by keyboard'({ page }) {
    const focused = () => page.evaluate(() => {
      const { activeElement: element } = document;
      const region = element.closest('[data-pane]')?.dataset.pane ?? 'page';
      const outline = getComputedStyle(element).outlineStyle;
      return { at: `${region}: ${element.name || element.textContent.trim()}`, outline };
    });
    const order = [];
    for (let step = 0; step < 12; step += 1) {
      await page.keyboard.press('Tab');
      const { at, outline } = await focused();
      assert.notEqual(outline, 'none', `focus is not visible on ${at}`);
      order.push(at);
      if (at === 'holdover: message') break;
    }
    assert.deepEqual(order, [
      'page: Send all', 'page: Cut all', 'page: Reload page',
      'direct: message', 'direct: Send', 'direct: Cut connection', 'direct: Reload pane', 'direct: Events as received',
      'holdover: message',
    ]);
    const root = pane(page, 'holdover');
    await page.keyboard.press('Enter');
    await received(root, 10);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    assert.equal((await focused()).at, 'holdover: Cut connection');
    await page.keyboard.press('Space');
    await says(root, /events recovered — answer complete$/);
    assert.equal((await focused()).at, 'holdover: Cut connection', 'the keyboard lost its place');
    await assertWholeAnswer(root);
  },

  async 'a screen reader hears sentences and changes, not words'({ page }) {
    for (const role of ['banner', 'main']) assert.equal(await page.getByRole(role).count(), 1, role);
    for (const name of ['Direct', 'Through Holdover']) {
      assert.equal(await page.getByRole('region', { name, exact: true }).count(), 1, name);
    }
    const root = pane(page, 'holdover');
    assert.equal(await root.locator('.answer').evaluate((answer) => answer.closest('[aria-live], [role=log]')), null);
    await root.getByRole('log').evaluate((log) => {
      window.heard = [];
      new MutationObserver((changes) => {
        for (const { addedNodes } of changes) for (const added of addedNodes) window.heard.push(added.textContent);
      }).observe(log, { childList: true, subtree: true, characterData: true });
    });
    await button(root, 'Send').click();
    await says(root, /answer complete/i);
    const heard = await page.evaluate(() => window.heard);
    assert.ok(heard.length < 25, `${heard.length} announcements`);
    for (const sentence of heard) assert.match(sentence, /[.!?]$/);
    const spoken = heard.filter((sentence) => !sentence.startsWith('Calls the tool')).join('');
    assert.equal(spoken.replace(/\s+/g, ''), expected.text.replace(/\s+/g, ''));
    assert.match(await root.getByRole('img').getAttribute('aria-label'), new RegExp(`^${expected.count} of`));
  },

  async 'motion stops for those who ask for less of it'({ page }) {
    await page.emulateMedia({ reducedMotion: 'reduce' });
    const root = pane(page, 'holdover');
    await button(root, 'Send').click();
    await received(root, 5);
    const moving = await page.evaluate(() => document.getAnimations().length);
    assert.equal(moving, 0);
  },
};

for (const width of [360, 768, 1280]) {
  for (const colorScheme of ['light', 'dark']) {
    scenarios[`the page is whole and legible at ${width} px, ${colorScheme}`] = (opened) => looks(opened, width, colorScheme);
  }
}

/** All panes after a cut and at their end: nothing overflows, contrast is WCAG AA. */
async function looks({ page }, width, colorScheme) {
  await page.emulateMedia({ colorScheme });
  await page.setViewportSize({ width, height: 800 });
  const [straight, through] = [pane(page, 'direct'), pane(page, 'holdover')];
  const inspect = async (moment) => {
    const { overflow, faint } = await page.evaluate(inspectPage);
    assert.ok(overflow <= 0, `${moment}: ${overflow} px wider than the window`);
    assert.deepEqual(faint, [], `${moment}: text below WCAG AA`);
    if (shots) {
      await page.screenshot({ path: join(shots, `${width}-${colorScheme}-${moment}.png`), fullPage: true });
    }
  };
  await inspect('before');
  await button(page, 'Send all').click();
  await received(straight, 45);
  await received(through, 45);
  const release = await holdResumes(page);
  await button(page, 'Cut all').click();
  await until('the gap opens', through, async () => (await through.locator('.tick.gap').count()) > 12);
  await inspect('cut');
  release();
  await says(through, /events recovered( — answer complete)?$/);
  await inspect('resumed');
  await says(through, /answer complete$/);
  await says(pane(page, 'ai-sdk'), /resumed — answer complete$/);
  await says(straight, /aborted the turn$/);
  await through.getByText('Events as received').first().click();
  await inspect('after');
}

/** Runs in the page: how far it is too wide, and which texts lack contrast. */
function inspectPage() {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => {
    const [r, g, b] = [...rgba(color)].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const color = getComputedStyle(up).backgroundColor;
      if (rgba(color)[3] > 250) return color;
    }
    return 'white';
  };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data).join('').trim();
    if ((!text && element.localName !== 'input') || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [light, dark] = [luminance(style.color), luminance(ground(element))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return { overflow: document.documentElement.scrollWidth - innerWidth, faint };
}

// --- run

/** A third argument picks the scenarios whose name contains it, or, as 1/3, a share of them. */
const picked = process.argv[4] ?? '';
const [, share, shares] = picked.match(/^(\d+)\/(\d+)$/) ?? [];
const chosen = Object.entries(scenarios).filter(([name], index) =>
  shares ? index % shares === share - 1 : name.includes(picked));

/** Whether the scenario comes out as it should; if not, says why. */
async function passes(name, scenario) {
  const opened = await open();
  try {
    await scenario(opened);
    assert.deepEqual(opened.problems, [], 'the console is not clean');
    console.log(`ok   ${name}`);
    return true;
  } catch (error) {
    console.error(`FAIL ${name}, an event every ${pace} ms\n     ${error.message.replaceAll('\n', '\n     ')}`);
    return false;
  } finally {
    await opened.context.close();
  }
}

/** The names of those that fail at the present pace. */
async function failing(scenarios) {
  const failed = [];
  for (const [name, scenario] of scenarios) {
    if (!(await passes(name, scenario))) failed.push([name, scenario]);
  }
  return failed;
}

let failed = await failing(chosen);
if (failed.length) {
  [, pace] = PACES;
  [, deadline] = DEADLINES;
  failed = await failing(failed);
}
await browser.close();
console.log(failed.length ? `${failed.length} of ${chosen.length} failed` : 'all passed');
process.exit(failed.length ? 1 : 0);
