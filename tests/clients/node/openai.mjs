// npm `openai` (--major 6 or 7): one streamed chat completion. The library sends a start again when it lost it before
// the response headers (--retries, 2 by default), and never resumes a stream.

import { client as connect, named } from './openai_client.mjs';
import { options } from './report.mjs';

const values = options({ major: { type: 'string', default: '7' }, retries: { type: 'string', default: '2' } });
const { client, report } = await connect(values, /\/chat\/completions$/);

const request = { model: 'test', messages: [{ role: 'user', content: 'Hello' }], ...JSON.parse(values.body ?? '{}') };
try {
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    report.event(null, 'chunk', JSON.stringify(chunk));
  }
  report.end('clean');
} catch (error) {
  report.fail(named(error));
}
