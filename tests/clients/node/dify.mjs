// npm `dify-client`: one streamed chat message. The library gives its bytes; they are read line by line, as everybody does.

import { createInterface } from 'node:readline';
import { ChatClient } from 'dify-client';
import { options, Report, versionOf } from './report.mjs';

const values = options({ conversation: { type: 'string' } });
const report = new Report('dify-client', versionOf('dify-client'), values);

const client = new ChatClient('test', values.url);
const { data } = await client.createChatMessage({}, 'Hello', 'a-user', true, values.conversation);
data.on('error', (error) => report.fail(error));
for await (const line of createInterface({ input: data })) {
  if (!line.startsWith('data: ')) continue;
  const event = JSON.parse(line.slice('data: '.length));
  report.event(null, event.event, JSON.stringify(event));
}
report.end('clean');
