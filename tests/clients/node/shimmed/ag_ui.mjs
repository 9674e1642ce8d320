// AG-UI's HttpAgent.

import { agentAt } from '../snippets/ag_ui.mjs';

export const library = '@ag-ui/client';

export async function run({ url, event, error }) {
  await watched(agentAt(url), event, error);
}

/** Runs an agent of AG-UI; tells what its message has become, and every text of it. */
export async function watched(agent, event, error) {
  agent.addMessage({ id: 'message-1', role: 'user', content: 'Hello' });
  const deltas = [];
  await agent.runAgent({}, {
    onTextMessageContentEvent: ({ event: { delta } }) => void deltas.push(delta),
    onRunFailed: ({ error: failure }) => void error(failure.message),
  });
  for (const delta of deltas) event(delta);
  const [, answer, ...more] = agent.messages;
  if (answer?.content !== deltas.join('') || more.length > 0) error(`messages: ${JSON.stringify(agent.messages)}`);
}
