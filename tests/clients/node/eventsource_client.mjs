// npm `eventsource-client`: any method; it reconnects, body and all, until it is answered 204.

import { createEventSource } from 'eventsource-client';
import { options, Report, versionOf } from './report.mjs';

const values = options();
const report = new Report('eventsource-client', versionOf('eventsource-client'), values);
const { url, method, body, headers } = values;

const source = createEventSource({ url, method, body, headers, fetch: report.fetch });
for await (const { id, event, data } of source) report.event(id, event, data);
report.end('closed');
