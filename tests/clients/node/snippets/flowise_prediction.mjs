import { events } from './resume_by_hand.mjs';

const { FLOWISE_URL = 'http://localhost:8080', FLOW = 'a-flow', FLOWISE_API_KEY = '…' } = process.env;
const answer = events(`${FLOWISE_URL}/api/v1/prediction/${FLOW}`, {
  method: 'POST',
  headers: { authorization: `Bearer ${FLOWISE_API_KEY}`, 'content-type': 'application/json' },
  body: JSON.stringify({ question: 'Hello', chatId: 'a-chat', streaming: true }),
});
for await (const data of answer) {
  const event = JSON.parse(data);
  if (event.event === 'token') process.stdout.write(event.data);
}
