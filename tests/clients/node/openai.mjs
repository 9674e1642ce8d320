// npm `openai` (--major 6 or 7): one streamed chat completion. The library sends a start again when it lost it before
// the response headers (--retries, 2 by default), and never resumes a stream.

import { options, Report, versionOf } from './report.mjs';

const values = options({ major: { type: 'string', default: '7' }, retries: { type: 'string', default: '2' } });
const library = `openai${values.major}`;
const { default: OpenAI } = await import(library);
const report = new Report('openai', versionOf(library), values);

const { origin, pathname, searchParams } = new URL(values.url);
const client = new OpenAI({
  apiKey: 'test',
  baseURL: origin + pathname.replace(/\/chat\/completions$/, ''),
  defaultQuery: Object.fromEntries(searchParams),
  defaultHeaders: values.headers,
  maxRetries: Number(values.retries),
  fetch: report.fetch,
});
const request = { model: 'test', messages: [{ role: 'user', content: 'Hello' }], ...JSON.parse(values.body ?? '{}') };
for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
  report.event(null, 'chunk', JSON.stringify(chunk));
}
report.end('clean');
