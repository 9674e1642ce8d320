import { ClientFactory, JsonRpcTransportFactory } from '@a2a-js/sdk/client';
import { resumableFetch } from '@holdover/resume';

export function clientOf(agentCard) {
  const transports = [new JsonRpcTransportFactory({ fetchImpl: resumableFetch() })];
  return new ClientFactory({ transports }).createFromAgentCard(agentCard);
}
