import { CopilotKitCore } from '@copilotkit/core';
import { install } from '@holdover/resume';

// CopilotKit calls the global fetch, and looks it up for each request.
install();

export function copilotAt(runtimeUrl) {
  return new CopilotKitCore({ runtimeUrl, runtimeTransport: 'rest' });
}
