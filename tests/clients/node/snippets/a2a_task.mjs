import { ClientFactory, JsonRpcTransportFactory } from '@a2a-js/sdk/client';

const { A2A_URL = 'http://localhost:8080/a2a' } = process.env;
const client = await new ClientFactory({ transports: [new JsonRpcTransportFactory()] }).createFromAgentCard({
  name: 'agent',
  supportedInterfaces: [{ url: A2A_URL, protocolBinding: 'JSONRPC', protocolVersion: '1.0', tenant: '' }],
  capabilities: { streaming: true },
});

/** The updates of a task, in spite of lost connections. */
async function* updates(message) {
  let stream = client.sendMessageStream({ message, tenant: '' });
  for (let task, seen = 0; stream; ) {
    let place = 0;
    try {
      for await (const { payload } of stream) {
        task ??= payload.value.id ?? payload.value.taskId;
        place += 1;
        if (place > seen) yield payload; // a subscription begins with the first update again
        seen = Math.max(seen, place);
      }
      return;
    } catch (error) {
      if (!task || error.name !== 'TypeError') throw error; // what `fetch` throws when a connection is lost
      stream = client.resubscribeTask({ id: task, tenant: '' });
    }
  }
}

const parts = [{ content: { $case: 'text', value: 'Hello' }, mediaType: 'text/plain', filename: '' }];
for await (const { $case, value } of updates({ messageId: crypto.randomUUID(), role: 1, parts })) {
  if ($case === 'artifactUpdate') console.log(value.artifact.parts[0].content.value);
}
