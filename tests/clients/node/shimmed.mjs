// A client that does not resume by itself, unchanged, on the fetch shim: `--client` names a module of `shimmed/`, whose
// `run` asks --url and tells what it was given. In Node, or with --chromium in a page.
//
//   --way option    the client has the shim in it (the default)
//   --way install   the page installs it, from Holdover, ahead of the client; `classic`: by a plain script;
//                   `worker`: by a service worker
//   --cross-origin  from a page of another origin
//   --after N --do abort|close|leave|offline   after N events the page does this: aborts its request, is closed, goes
//                   elsewhere and aborts its request on the way, or has no network until the shim has noticed. The
//                   browser then stays until standard input ends
//
// Notes: {"event"} with --live, {"told"} for what the shim says, {"offline"} when the network is gone, {"did"} when --do
// is done.

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';
import { launch, openForeignPage, openPage } from './browser.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  client: { type: 'string' },
  chromium: { type: 'boolean', default: false },
  way: { type: 'string', default: 'option' },
  'cross-origin': { type: 'boolean', default: false },
  after: { type: 'string' },
  do: { type: 'string' },
});
const file = fileURLToPath(new URL(`shimmed/${values.client}`, import.meta.url));
const report = new Report(values.client, '', values);

if (values.chromium) await inChromium();
else await inNode();
report.end('clean');

async function inNode() {
  const { run, library } = await import(file);
  if (library) report.note({ library, version: versionOf(library) });
  await run({
    url: values.url,
    event: (data) => report.event(null, null, data),
    error: (text) => report.error(text),
  });
}

async function inChromium() {
  const { browser, pid } = await launch();
  report.note({ browser_pid: pid });
  const modules = { '/client.js': Buffer.from(await bundle(file)) };
  const page = await (values['cross-origin'] ? openForeignPage(browser, modules) : openPage(browser, values.url, modules));
  let received = 0;
  const done = Promise.withResolvers();
  await page.exposeFunction('received', (data) => {
    report.event(null, null, data);
    received += 1;
    if (received === Number(values.after)) act(page).then(({ over }) => over && done.resolve(), done.reject);
  });
  await page.exposeFunction('failed', (text) => report.error(text));
  await page.exposeFunction('told', (type) => report.note({ told: type }));
  await prepare(page, new URL(values.url).origin);
  const running = page.evaluate(async (url) => {
    for (const type of ['interrupted', 'reconnecting', 'resumed', 'ended', 'stopped', 'failed']) {
      addEventListener(`holdover:${type}`, () => told(type));
    }
    const { run } = await import('/client.js');
    window.request = new AbortController();
    try {
      await run({ url, event: received, error: failed, signal: window.request.signal });
    } catch (error) {
      await failed(`${error.name}: ${error.message}${error.code ? ` (${error.code})` : ''}`);
    }
  }, values.url);
  // A page that is closed takes its script with it.
  await Promise.race([running.catch((error) => values.after || Promise.reject(error)), done.promise]);
  if (values.do === 'close' || values.do === 'leave') await done.promise;
  if (values.do) for await (const _ of process.stdin);
}

/** Puts the shim in place, as a page would. */
async function prepare(page, origin) {
  switch (values.way) {
    case 'install':
      return page.evaluate((url) => import(url).then(({ install }) => void install()), `${origin}/.holdover/resume.js`);
    case 'classic':
      return page.addScriptTag({ url: `${origin}/.holdover/resume.classic.js` });
    case 'worker':
      return page.evaluate(async () => {
        const controlled = new Promise((event) => navigator.serviceWorker.addEventListener('controllerchange', event));
        await navigator.serviceWorker.register('/.holdover/resume-sw.js', { scope: '/' });
        await controlled;
        navigator.serviceWorker.addEventListener('message', ({ data }) => told(data.type.replace('holdover:', '')));
      });
  }
}

/** Does what was asked for; `over` if the page is no more. */
async function act(page) {
  switch (values.do) {
    case 'abort':
      await page.evaluate(() => window.request.abort());
      break;
    case 'close':
      await page.close();
      break;
    case 'leave':
      await page.evaluate(() => addEventListener('pagehide', () => window.request.abort()));
      await page.goto('about:blank');
      break;
    case 'offline': {
      const network = await page.context().newCDPSession(page);
      const online = (online) =>
        network.send('Network.emulateNetworkConditions', {
          offline: !online, latency: 0, downloadThroughput: -1, uploadThroughput: -1,
        });
      await network.send('Network.enable');
      const noticed = page.evaluate(() => new Promise((noticed) => {
        addEventListener('holdover:reconnecting', () => noticed(navigator.onLine));
      }));
      await online(false);
      // Chromium leaves connections that stand; the test breaks them.
      report.note({ offline: true });
      if (await noticed) report.error('the page believes that it is online');
      await online(true);
      break;
    }
  }
  // A worker takes a second to see whether its page is gone. What must not happen has no other sign.
  if (values.do === 'close' || values.do === 'leave') await new Promise((passed) => setTimeout(passed, 3000));
  report.note({ did: values.do });
  return { over: values.do === 'close' || values.do === 'leave' };
}

/** One file for the browser, of everything the client needs. */
async function bundle(entry) {
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    format: 'esm',
    target: 'es2022',
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"production"' },
    write: false,
    logLevel: 'error',
  });
  return outputFiles[0].contents;
}
