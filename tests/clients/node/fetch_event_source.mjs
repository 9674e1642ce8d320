// npm `@microsoft/fetch-event-source`, in Chromium, where it lives. It sends the same request again, body and all,
// after an error, and takes a clean end for complete. --cross-origin asks from a page of another origin.

import { launch, openForeignPage, openPage } from './browser.mjs';
import { options, Report, versionOf } from './report.mjs';

const library = '@microsoft/fetch-event-source';
const modules = Object.fromEntries(
  [['/parse', 'parse.js'], ['/fetch', 'fetch.js'], ['/index.js', 'index.js']]
    .map(([path, file]) => [`/fetch-event-source${path}`, `${library}/lib/esm/${file}`]),
);

const values = options({ 'cross-origin': { type: 'boolean', default: false } });
const { browser, pid } = await launch();
const report = new Report('fetch-event-source', versionOf(library), values);
if (values.live) report.note({ browser_pid: pid });

const page = values['cross-origin']
  ? await openForeignPage(browser, modules)
  : await openPage(browser, values.url, modules);
await page.exposeFunction('opened', () => report.open());
await page.exposeFunction('received', (id, type, data) => report.event(id, type, data));
await page.exposeFunction('failed', (text) => report.error(text));

await page.evaluate(
  async ([url, method, body, headers]) => {
    const { fetchEventSource } = await import('/fetch-event-source/index.js');
    await fetchEventSource(url, {
      method,
      body,
      headers,
      fetch: async (...request) => {
        const response = await fetch(...request);
        // Not awaited: what is unread when a connection breaks is lost, so the body must be read without delay.
        if (response.status === 200) void opened();
        else void failed(`status ${response.status}`);
        return response;
      },
      onmessage: ({ id, event, data }) => void received(id, event, data),
      onerror: (error) => void failed(error.message),
    });
  },
  [values.url, values.method, values.body, values.headers],
);
report.end('clean');
