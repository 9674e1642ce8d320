// The reader of snippets/resume_by_hand.mjs, as it stands in the documentation. It goes on by `Holdover-Resume`.

import { options, Report } from './report.mjs';
import { events } from './snippets/resume_by_hand.mjs';

const values = options();
const report = new Report('by hand', '1', values);

const { url, method, headers, body } = values;
for await (const data of events(url, { method, headers, body })) report.event(null, 'message', data);
report.end('clean');
