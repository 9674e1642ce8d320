// npm `@a2a-js/sdk` (--version 1.0 or 0.3): one streamed message. The library does not come back by itself; this caller
// subscribes to the task again, once for each error, and starts afresh with what it is then told.
//
//   --rest    (1.0) over REST; otherwise JSON-RPC

import { options, Report, versionOf } from './report.mjs';

const values = options({ version: { type: 'string', default: '1.0' }, rest: { type: 'boolean', default: false } });
const library = values.version === '0.3' ? 'a2a03' : '@a2a-js/sdk';
const { ClientFactory, JsonRpcTransportFactory, RestTransportFactory } = await import(`${library}/client`);
const report = new Report('a2a', versionOf(library), values);

const requests = (input, init) =>
  report.fetch(input, { ...init, headers: { ...Object.fromEntries(new Headers(init?.headers)), ...values.headers } });
const transports = [new JsonRpcTransportFactory({ fetchImpl: requests }), new RestTransportFactory({ fetchImpl: requests })];
const about = { name: 'test', description: '', version: '1', skills: [], defaultInputModes: [], defaultOutputModes: [] };
const binding = values.rest ? 'HTTP+JSON' : 'JSONRPC';
const card =
  values.version === '0.3'
    ? { ...about, protocolVersion: '0.3.0', url: values.url, preferredTransport: binding, capabilities: { streaming: true } }
    : {
        ...about,
        supportedInterfaces: [{ url: values.url, protocolBinding: binding, protocolVersion: '1.0', tenant: '' }],
        capabilities: { streaming: true, extensions: [] },
        securitySchemes: {},
        securityRequirements: [],
        signatures: [],
      };
const client = await new ClientFactory({ transports }).createFromAgentCard(card);
const message =
  values.version === '0.3'
    ? { kind: 'message', messageId: 'message-1', role: 'user', parts: [{ kind: 'text', text: 'Hello' }] }
    : {
        messageId: 'message-1',
        role: 1,
        parts: [{ content: { $case: 'text', value: 'Hello' }, mediaType: 'text/plain', filename: '' }],
        contextId: '',
        taskId: '',
        extensions: [],
        referenceTaskIds: [],
      };

let task;
let stream = client.sendMessageStream({ message, tenant: '' });
while (stream) {
  try {
    for await (const update of stream) {
      const { $case: kind = update.kind, value = update } = update.payload ?? {};
      task ??= value.taskId ?? value.id;
      report.event(null, kind, JSON.stringify(value));
    }
    stream = undefined;
  } catch (error) {
    report.error(error);
    if (!task) throw error;
    report.note({ lost: task });
    stream = client.resubscribeTask({ id: task, tenant: '' });
  }
}
report.end('clean');
