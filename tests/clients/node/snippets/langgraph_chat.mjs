import { createElement } from 'react';
import { useStream } from '@langchain/langgraph-sdk/react';

export function Chat({ apiUrl, threadId, ...rest }) {
  const stream = useStream({
    apiUrl,
    threadId,
    assistantId: 'agent',
    reconnectOnMount: true, // the one line
    ...rest,
  });
  const say = (content) => stream.submit({ messages: [{ type: 'human', content }] });
  return createElement(
    'div',
    null,
    stream.messages.map(({ id, type, content }) => createElement('p', { key: id ?? type, className: type }, content)),
    createElement('button', { onClick: () => say('Hello'), disabled: stream.isLoading }, 'Say hello'),
    createElement('button', { onClick: () => stream.stop(), disabled: !stream.isLoading }, 'Stop'),
  );
}
