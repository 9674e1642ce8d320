// `useStream` of `@langchain/langgraph-sdk` (--major 0, 1 or 2) with `reconnectOnMount`, on a React page in Chromium, of
// another origin than the API at --url.
//
// Says hello on --thread and reports what the answer on the page was at each change, type `text`. After --reload-at
// characters it reloads the page, once; after --stop-at characters it presses Stop. It ends when the answer is not loading
// any more.

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';
import { launch, openForeignPage } from './browser.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  major: { type: 'string', default: '2' },
  thread: { type: 'string', default: 'a-thread' },
  'reload-at': { type: 'string', default: 'Infinity' },
  'stop-at': { type: 'string', default: 'Infinity' },
});
const library = `langgraph-sdk${values.major}`;
const bundle = await build({
  entryPoints: [fileURLToPath(new URL('pages/langgraph.mjs', import.meta.url))],
  absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
  alias: { '@langchain/langgraph-sdk': library },
  bundle: true,
  format: 'esm',
  platform: 'browser',
  define: { 'process.env.NODE_ENV': '"production"' },
  write: false,
  logLevel: 'error',
});
const report = new Report('useStream', versionOf(library), values);
const { browser } = await launch();
const page = await openForeignPage(browser, {});

let [shown, wasLoading, stopping, reloadAt, stopAt] = ['', false, false, Number(values['reload-at']), Number(values['stop-at'])];
const now = (action) => setImmediate(action); // not while the page waits for `tell`
await page.exposeFunction('failed', (text) => report.error(text));
await page.exposeFunction('tell', ({ text, loading }) => {
  if (text && text !== shown) report.event(null, 'text', text);
  shown = text;
  if (text.length >= reloadAt) {
    [wasLoading, reloadAt] = [false, Infinity];
    now(async () => {
      await page.reload();
      await page.addScriptTag({ type: 'module', content: bundle.outputFiles[0].text });
    });
  } else if (text.length >= stopAt) {
    [stopAt, stopping] = [Infinity, true];
    now(async () => {
      // The page is done with the answer before the server has heard of it.
      const heard = page.waitForResponse((answer) => answer.url().includes('/cancel') && answer.request().method() === 'POST');
      await page.evaluate(() => window.stop());
      await heard;
      report.end('clean');
    });
  } else if (wasLoading && !loading && !stopping) {
    now(() => report.end('clean'));
  }
  wasLoading = loading || wasLoading;
});
page.on('response', (response) => {
  if (response.headers()['content-type']?.startsWith('text/event-stream')) report.open();
});
const chat = { apiUrl: values.url, threadId: values.thread, headers: values.headers };
await page.addInitScript((chat) => { window.chat = chat; }, chat);
await page.reload();
await page.addScriptTag({ type: 'module', content: bundle.outputFiles[0].text });
await page.waitForSelector('button');
await page.evaluate(() => window.sayHello());
