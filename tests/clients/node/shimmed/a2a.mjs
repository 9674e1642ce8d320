// A2A's client over JSON-RPC.

import { clientOf } from '../snippets/a2a.mjs';

export const library = '@a2a-js/sdk';

export async function run({ url, event }) {
  const client = await clientOf({
    name: 'test',
    description: '',
    version: '1',
    supportedInterfaces: [{ url, protocolBinding: 'JSONRPC', protocolVersion: '1.0', tenant: '' }],
    capabilities: { streaming: true },
    defaultInputModes: [],
    defaultOutputModes: [],
    skills: [],
  });
  const message = { messageId: 'message-1', role: 1, parts: [{ content: { $case: 'text', value: 'Hello' } }] };
  for await (const { payload } of client.sendMessageStream({ message })) {
    if (payload.$case === 'artifactUpdate') event(payload.value.artifact.parts[0].content.value);
  }
}
