import OpenAI from 'openai';

const client = new OpenAI(); // OPENAI_BASE_URL is Holdover's address, with /v1

/** The events of a response, in spite of lost connections. */
async function* events(request) {
  let stream = await client.responses.create({ ...request, stream: true });
  for (let id, last; ; ) {
    try {
      for await (const event of stream) {
        if (event.type === 'response.created') id = event.response.id;
        last = event.sequence_number;
        yield event;
      }
      return;
    } catch (error) {
      const lost = !(error instanceof OpenAI.OpenAIError) || error instanceof OpenAI.APIConnectionError;
      if (!lost || id === undefined) throw error;
      stream = await client.responses.retrieve(id, { stream: true, starting_after: last });
    }
  }
}

for await (const event of events({ model: 'gpt-5', input: 'Hello' })) {
  if (event.type === 'response.output_text.delta') process.stdout.write(event.delta);
}
