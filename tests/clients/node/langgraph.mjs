// npm `@langchain/langgraph-sdk` (--major 0, 1 or 2) on the API at --url. From 1.x on it goes on by itself with
// `GET <Location>` + `Last-Event-ID` when a stream breaks.
//
// --action stream (default) starts a run on --thread and reads it; join reads --run from --last-event-id on; cancel cancels
// --run. --mode names the stream modes, with commas. With --live the run is told ahead: {"run"}.

import { options, Report, versionOf } from './report.mjs';

const values = options({
  major: { type: 'string', default: '2' },
  action: { type: 'string', default: 'stream' },
  thread: { type: 'string', default: 'a-thread' },
  run: { type: 'string' },
  'last-event-id': { type: 'string' },
  mode: { type: 'string' },
});
const library = `langgraph-sdk${values.major}`;
const { Client } = await import(library);
const report = new Report('langgraph-sdk', versionOf(library), values);

const { runs } = new Client({
  apiUrl: values.url,
  apiKey: null,
  defaultHeaders: values.headers,
  callerOptions: { fetch: report.fetch },
});
const modes = values.mode?.split(',');

const start = () => runs.stream(values.thread, 'agent', {
  input: values.body ? JSON.parse(values.body) : { messages: [] },
  streamMode: modes ?? ['values'],
  streamResumable: true,
  onDisconnect: 'continue',
  onRunCreated: ({ run_id: run }) => values.live && report.note({ run }),
});
const join = () => runs.joinStream(values.thread, values.run, {
  lastEventId: values['last-event-id'],
  streamMode: modes,
});

if (values.action === 'cancel') {
  await runs.cancel(values.thread, values.run);
} else {
  for await (const { id, event, data } of values.action === 'join' ? join() : start()) {
    report.event(id, event, JSON.stringify(data));
  }
}
report.end('clean');
