// npm `flowise-sdk`: one streamed prediction. It never resumes.

import flowise from 'flowise-sdk';
import { options, Report, versionOf } from './report.mjs';

const values = options({ chat: { type: 'string', default: 'a-chat' } });
const report = new Report('flowise-sdk', versionOf('flowise-sdk'), values);

const client = new flowise.FlowiseClient({ baseUrl: values.url, apiKey: 'test' });
const prediction = { chatflowId: 'a-flow', question: 'Hello', chatId: values.chat, streaming: true };
for await (const { event, data } of await client.createPrediction(prediction)) {
  report.event(null, event, JSON.stringify(data));
}
report.end('clean');
