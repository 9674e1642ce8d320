import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { createElement } from 'react';

export function Chat({ id, stored, api = '/api/chat' }) {
  const { messages, sendMessage, status } = useChat({
    id, // the chat's, the same after a reload
    messages: stored, // from your database: up to the user's last message
    resume: true, // the one line
    transport: new DefaultChatTransport({ api }),
  });
  const text = ({ parts }) => parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
  return createElement(
    'main',
    { className: status },
    messages.map((message) => createElement('p', { key: message.id, className: message.role }, text(message))),
    createElement('button', { onClick: () => sendMessage({ text: 'Weather in Ulm?' }) }, 'Ask'),
  );
}
