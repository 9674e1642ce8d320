import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { resumableFetch } from '@holdover/resume';

export function useResumableChat(api) {
  return useChat({ transport: new DefaultChatTransport({ api, fetch: resumableFetch() }) });
}
