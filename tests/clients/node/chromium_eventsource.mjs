// Chromium's own EventSource. It reconnects after errors and clean ends, and stops on a status other than 200.
// --cross-origin asks from a page of another origin; --types names the event types to listen for.

import { launch, openForeignPage, openPage } from './browser.mjs';
import { options, Report } from './report.mjs';

const values = options({
  'cross-origin': { type: 'boolean', default: false },
  types: { type: 'string', default: 'message' },
});
const { browser, pid, version } = await launch();
const report = new Report('chromium EventSource', version, values);
if (values.live) report.note({ browser_pid: pid });

const page = values['cross-origin'] ? await openForeignPage(browser) : await openPage(browser, values.url);
await page.exposeFunction('opened', () => report.open());
await page.exposeFunction('received', (id, type, data) => report.event(id, type, data));
await page.exposeFunction('failed', (text) => report.error(text));

await page.evaluate(
  ([url, types]) =>
    new Promise((resolve) => {
      const source = new EventSource(url);
      source.onopen = () => opened();
      for (const type of types) {
        source.addEventListener(type, (event) => received(event.lastEventId, event.type, event.data));
      }
      source.onerror = () => {
        const closed = source.readyState === EventSource.CLOSED;
        const told = failed(closed ? 'closed' : 'connection lost');
        if (closed) told.then(resolve);
      };
    }),
  [values.url, values.types.split(',')],
);
report.end('closed');
