import { events } from './resume_by_hand.mjs';

const { GEMINI_URL = 'http://localhost:8080', GEMINI_API_KEY = '…' } = process.env;
const answer = events(`${GEMINI_URL}/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse`, {
  method: 'POST',
  headers: { 'x-goog-api-key': GEMINI_API_KEY, 'content-type': 'application/json' },
  body: JSON.stringify({ contents: [{ role: 'user', parts: [{ text: 'Hello' }] }] }),
});
for await (const data of answer) {
  const { candidates } = JSON.parse(data);
  process.stdout.write(candidates?.[0]?.content?.parts?.map(({ text }) => text ?? '').join('') ?? '');
}
