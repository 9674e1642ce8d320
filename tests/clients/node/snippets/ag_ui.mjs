import { HttpAgent } from '@ag-ui/client';
import { resumableFetch } from '@holdover/resume';

export function agentAt(url) {
  return new HttpAgent({ url, fetch: resumableFetch() });
}
