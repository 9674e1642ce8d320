import Anthropic from '@anthropic-ai/sdk';
import { Stream } from '@anthropic-ai/sdk/core/streaming';

const client = new Anthropic(); // ANTHROPIC_BASE_URL is Holdover's address

/** The events of a message, in spite of lost connections. */
async function* events(request) {
  for (let last; ; ) {
    const headers = last === undefined ? {} : { 'Last-Event-ID': last };
    const message = client.messages.create({ ...request, stream: true }, { headers });
    try {
      for await (const { event, data, raw } of Stream.rawEvents(await message.asResponse())) {
        last = raw.find((line) => line.startsWith('id: '))?.slice('id: '.length) ?? last;
        if (event === 'error') throw new Anthropic.AnthropicError(data);
        if (event !== 'ping') yield JSON.parse(data);
      }
      return;
    } catch (error) {
      const lost = !(error instanceof Anthropic.AnthropicError) || error instanceof Anthropic.APIConnectionError;
      if (!lost || last === undefined) throw error;
    }
  }
}

const messages = [{ role: 'user', content: 'Hello' }];
for await (const event of events({ model: 'claude-sonnet-4-5', max_tokens: 1000, messages })) {
  if (event.delta?.type === 'text_delta') process.stdout.write(event.delta.text);
}
