// CopilotKit's core with the agent it makes of what the runtime names: ProxiedCopilotRuntimeAgent.

import { copilotAt } from '../snippets/copilotkit.mjs';
import { watched } from './ag_ui.mjs';

export const library = '@copilotkit/core';

export async function run({ url, event, error }) {
  const core = copilotAt(url);
  while (!core.getAgent('default')) await new Promise((again) => setTimeout(again, 10));
  await watched(core.getAgent('default'), event, error);
}
