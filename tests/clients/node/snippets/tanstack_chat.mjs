import { fetchServerSentEvents, localStoragePersistence, useChat } from '@tanstack/ai-react';
import { createElement } from 'react';

const persistence = localStoragePersistence(); // the one line

export function Chat({ id, api = '/api/chat' }) {
  const { messages, sendMessage, status } = useChat({
    threadId: id, // the same after a reload
    connection: fetchServerSentEvents(api),
    persistence,
  });
  const text = ({ parts }) => parts.map((part) => (part.type === 'text' ? part.content : '')).join('');
  return createElement(
    'main',
    { className: status },
    messages.map((message) => createElement('p', { key: message.id, className: message.role }, text(message))),
    createElement('button', { onClick: () => sendMessage('Weather in Ulm?') }, 'Ask'),
  );
}
