// npm `@anthropic-ai/sdk`: one streamed message. The library sends a start again when it lost it before the response
// headers (--retries, 2 by default), and never resumes a stream. --helper reads through `messages.stream`, whose final
// message is the last event of the report.

import Anthropic from '@anthropic-ai/sdk';
import { named } from './openai_client.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  retries: { type: 'string', default: '2' },
  helper: { type: 'boolean', default: false },
});
const report = new Report('anthropic', versionOf('@anthropic-ai/sdk'), values);
const { origin, pathname } = new URL(values.url);
const client = new Anthropic({
  apiKey: 'test',
  baseURL: origin + pathname.replace(/\/v1\/messages$/, ''),
  defaultHeaders: values.headers,
  maxRetries: Number(values.retries),
  fetch: report.fetch,
});

const messages = [{ role: 'user', content: 'Hello' }];
const request = { model: 'test', max_tokens: 100, messages, ...JSON.parse(values.body ?? '{}') };
try {
  const stream = values.helper ? client.messages.stream(request) : await client.messages.create({ ...request, stream: true });
  for await (const event of stream) report.event(null, event.type, JSON.stringify(event));
  if (values.helper) report.event(null, 'final', JSON.stringify(await stream.finalMessage()));
  report.end('clean');
} catch (error) {
  report.fail(named(error));
}
