// A snippet of docs/clients in Chromium, as a page would use it: --snippet eventsource or fetch_event_source.

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';
import { launch, openPage } from './browser.mjs';
import { options, Report } from './report.mjs';

const values = options({ snippet: { type: 'string' } });
const bundle = await build({
  entryPoints: [fileURLToPath(new URL(`snippets/${values.snippet}.mjs`, import.meta.url))],
  bundle: true,
  format: 'iife',
  globalName: 'snippet',
  write: false,
  logLevel: 'error',
});
const { browser, version } = await launch();
const report = new Report(`snippet ${values.snippet}`, version, values);
const page = await openPage(browser, values.url);
await page.exposeFunction('show', (data) => report.event(null, 'message', data));
await page.addScriptTag({ content: `${bundle.outputFiles[0].text}; window.snippet = snippet;` });
await page.evaluate(async (url) => {
  if (snippet.ask) return snippet.ask(url, 'Hello', show);
  const source = snippet.follow(url, show);
  return new Promise((closed) => {
    source.onerror = () => source.readyState === EventSource.CLOSED && closed();
  });
}, values.url);
report.end('clean');
