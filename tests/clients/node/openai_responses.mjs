// npm `openai` (--major 6 or 7): one streamed response, continued by its caller.
//
//   --resume              after a lost connection, `responses.retrieve` with `starting_after` goes on behind the last event
//   --retrieve ID [--starting-after N]
//                         no start: only `responses.retrieve`
//   --helper              read it through `responses.stream`, whose final response is the last event of the report
//   --cancel-at N         after N events (0: before all), `responses.cancel`; its answer is noted as {"cancelled": …}
//
// The library does not reconnect by itself. Names of errors are those of its classes.

import { client as connect, named } from './openai_client.mjs';
import { options } from './report.mjs';

const values = options({
  major: { type: 'string', default: '7' },
  retries: { type: 'string', default: '2' },
  resume: { type: 'boolean', default: false },
  retrieve: { type: 'string' },
  'starting-after': { type: 'string' },
  helper: { type: 'boolean', default: false },
  'cancel-at': { type: 'string' },
});
const { client, report, OpenAI } = await connect(values, /\/responses$/);

let id = values.retrieve;
let last = values['starting-after'] && Number(values['starting-after']);
const cancelAt = Number(values['cancel-at'] ?? Infinity);
let seen = 0;

const more = () =>
  client.responses.retrieve(id, { stream: true, ...(last === undefined ? {} : { starting_after: last }) });
const input = { model: 'test', input: 'Hello', ...JSON.parse(values.body ?? '{}') };
const start = () => client.responses.create({ ...input, stream: true });

async function cancel() {
  const cancelled = await client.responses.cancel(id);
  report.note({ cancelled });
}

async function read(stream) {
  for await (const event of stream) {
    if (event.type === 'response.created') id = event.response.id;
    last = event.sequence_number;
    report.event(null, event.type, JSON.stringify(event));
    seen += 1;
    if (seen === cancelAt) await cancel();
  }
}

async function helped() {
  const params = values.retrieve ? { response_id: id, ...(last === undefined ? {} : { starting_after: last }) } : input;
  const stream = client.responses.stream(params);
  await read(stream);
  report.event(null, 'final', JSON.stringify(await stream.finalResponse()));
}

try {
  if (cancelAt === 0) await cancel();
  if (values.helper) await helped();
  else {
    for (let request = values.retrieve ? more : start; ; request = more) {
      try {
        await read(await request());
        break;
      } catch (error) {
        const lost = !(error instanceof OpenAI.OpenAIError) || error instanceof OpenAI.APIConnectionError;
        if (!values.resume || !lost || id === undefined) throw error;
        report.error(named(error));
      }
    }
  }
  report.end('clean');
} catch (error) {
  report.fail(named(error));
}
