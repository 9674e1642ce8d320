// npm `@modelcontextprotocol/sdk` (--major 1) or `@modelcontextprotocol/client` (2): one tool call. The library comes back by
// itself to a call that was cut off.
//
//   --tool NAME --steps N   calls this tool; its progress and its result are the events
//   --announce TEXT         instead, waits until the server logs this text unasked
//   --revision R            (2) speaks this revision, from 2026-07-28 on, and no other
//   --cancel-at N           cancels the call at this progress
//   --pause                 prints {"connected": SESSION} and calls when its standard input ends

import { text } from 'node:stream/consumers';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  major: { type: 'string', default: '2' },
  tool: { type: 'string', default: 'count' },
  steps: { type: 'string', default: '3' },
  announce: { type: 'string' },
  revision: { type: 'string' },
  'cancel-at': { type: 'string' },
  pause: { type: 'boolean', default: false },
});
const library = values.major === '1' ? '@modelcontextprotocol/sdk' : '@modelcontextprotocol/client';
const { Client, StreamableHTTPClientTransport } =
  values.major === '1'
    ? {
        ...(await import('@modelcontextprotocol/sdk/client/index.js')),
        ...(await import('@modelcontextprotocol/sdk/client/streamableHttp.js')),
      }
    : await import('@modelcontextprotocol/client');
const report = new Report('mcp', versionOf(library), values);

const versionNegotiation = values.revision && { mode: { pin: values.revision } };
const client = new Client({ name: 'test', version: '1' }, { versionNegotiation });
client.onerror = (error) => report.error(error);
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: values.headers },
  fetch: async (input, init) => {
    const response = await fetch(input, init);
    if (response.headers.get('content-type')?.startsWith('text/event-stream')) report.open();
    return response;
  },
});
await client.connect(transport);
if (values.pause) {
  report.note({ connected: transport.sessionId ?? null });
  await text(process.stdin);
}
if (values.announce) {
  const logged = new Promise((resolve) => {
    const handler = ({ params }) => resolve(params.data);
    if (values.major === '1') {
      import('@modelcontextprotocol/sdk/types.js').then(({ LoggingMessageNotificationSchema }) =>
        client.setNotificationHandler(LoggingMessageNotificationSchema, handler),
      );
    } else {
      client.setNotificationHandler('notifications/message', handler);
    }
  });
  await call('announce', { text: values.announce });
  report.event(null, 'log', await logged);
} else {
  await call(values.tool, { steps: Number(values.steps) });
}
await client.close();
report.end('clean');

async function call(name, parameters) {
  const cancel = new AbortController();
  const request = { name, arguments: parameters };
  const calling = {
    signal: cancel.signal,
    onprogress: ({ progress }) => {
      report.event(null, 'progress', String(progress));
      if (String(progress) === values['cancel-at']) cancel.abort(new Error('cancelled'));
    },
  };
  try {
    const result = await (values.major === '1'
      ? client.callTool(request, undefined, calling)
      : client.callTool(request, calling));
    report.event(null, result.isError ? 'error' : 'result', result.content.map((part) => part.text).join(''));
  } catch (error) {
    if (!values['cancel-at']) throw error;
    report.event(null, 'cancelled', error.message);
  }
}
