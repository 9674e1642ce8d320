// npm `@ag-ui/client`: one run of its `HttpAgent`. The agent never resumes a stream.
//
//   --encode FILE   no client: prints the events in FILE (a JSON array) as protocol buffers, a line of hex each

import { readFileSync } from 'node:fs';
import { HttpAgent } from '@ag-ui/client';
import { encode } from '@ag-ui/proto';
import { options, Report, versionOf } from './report.mjs';

const values = options({ encode: { type: 'string' } });
if (values.encode) {
  for (const event of JSON.parse(readFileSync(values.encode))) {
    const body = encode(event);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(body.length);
    process.stdout.write(`${Buffer.concat([length, body]).toString('hex')}\n`);
  }
  process.exit();
}

const report = new Report('ag-ui', versionOf('@ag-ui/client'), values);
const count = async (input, init) => {
  const response = await fetch(input, init);
  report.open();
  return response;
};
const agent = new HttpAgent({ url: values.url, headers: values.headers, threadId: 'thread-1', fetch: count });
agent.messages = [{ id: 'u1', role: 'user', content: 'Hello' }];
try {
  await agent.runAgent(
    { runId: 'run-1', ...JSON.parse(values.body ?? '{}') },
    { onEvent: ({ event }) => void report.event(null, event.type, JSON.stringify(event)) },
  );
  report.event(null, 'messages', JSON.stringify(agent.messages));
  report.end('clean');
} catch (error) {
  report.fail(error);
}
