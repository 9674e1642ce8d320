// npm `eventsource` (--major 3, 4 or 5). It reconnects after errors and clean ends, and stops on a status other than
// 200. --types names the event types to listen for (message).

import { options, Report, versionOf } from './report.mjs';

const values = options({ major: { type: 'string', default: '5' }, types: { type: 'string', default: 'message' } });
const library = `eventsource${values.major}`;
const { EventSource } = await import(library);
const report = new Report('eventsource', versionOf(library), values);

const source = new EventSource(values.url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...values.headers } }),
});
source.onopen = () => report.open();
for (const type of values.types.split(',')) {
  source.addEventListener(type, (event) => report.event(event.lastEventId, event.type, event.data));
}
source.onerror = (error) => {
  report.error(`${error.code ?? ''} ${error.message ?? 'connection lost'}`.trim());
  if (source.readyState === EventSource.CLOSED) report.end('closed');
};
