// Chromium's own `fetch`, with the request and the reader that a page would write by hand: POST, and a stream that is read
// to its end. It never sends anything again by itself; but its network stack does, when a reused connection dies.
//
//   --clicks N   so many equal requests at once from one page (1)
//   --tabs N     so many pages, each with its clicks (1)
//   --warm       a request for /warm first, so that there is a connection to be used again; noted as {"warm": status}
//
// The type of an event is `<tab>.<click>`; its data is the event's.

import { launch, openPage } from './browser.mjs';
import { options, Report } from './report.mjs';

const values = options({
  clicks: { type: 'string', default: '1' },
  tabs: { type: 'string', default: '1' },
  warm: { type: 'boolean', default: false },
});
const { browser, version } = await launch();
const report = new Report('chromium fetch', version, values);

async function tab(number) {
  const page = await openPage(browser, values.url);
  await page.exposeFunction('opened', () => report.open());
  await page.exposeFunction('received', (type, data) => report.event(null, type, data));
  await page.exposeFunction('failed', (text) => report.error(text));
  if (values.warm) report.note({ warm: await page.evaluate(async () => (await fetch('/warm')).status) });
  await page.evaluate(
    async ([tab, clicks, url, request]) => {
      const click = async (number) => {
        try {
          const response = await fetch(url, { method: 'POST', ...request });
          if (response.status !== 200) throw new Error(`status ${response.status}`);
          opened();
          const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
          let text = '';
          for (let read = await reader.read(); !read.done; read = await reader.read()) {
            const blocks = (text + read.value).split('\n\n');
            text = blocks.pop();
            for (const block of blocks) received(`${tab}.${number}`, block.match(/^data: (.*)$/m)[1]);
          }
        } catch (error) {
          await failed(error.message);
        }
      };
      await Promise.all(Array.from({ length: clicks }, (_, index) => click(index + 1)));
    },
    [number, Number(values.clicks), values.url, { body: values.body, headers: values.headers }],
  );
}

await Promise.all(Array.from({ length: Number(values.tabs) }, (_, index) => tab(index + 1)));
report.end('clean');
