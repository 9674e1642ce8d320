import { events } from './resume_by_hand.mjs';

const { DIFY_API = 'http://localhost:8080/v1', DIFY_API_KEY = 'app-…' } = process.env;
const answer = events(`${DIFY_API}/chat-messages`, {
  method: 'POST',
  headers: { authorization: `Bearer ${DIFY_API_KEY}`, 'content-type': 'application/json' },
  body: JSON.stringify({ inputs: {}, query: 'Hello', user: 'a-user', response_mode: 'streaming' }),
});
for await (const data of answer) {
  const event = JSON.parse(data);
  if (event.event === 'message') process.stdout.write(event.answer);
}
