// What every driver shares: its command line, and the report it prints as its last line.
//
//   --url URL --method GET|POST --body JSON --header 'Name: value' (repeatable)
//   --expect-events N   more than N events end the run at once, as an error
//   --timeout MS        the run ends as `timeout` when the library did not end by itself
//   --live              also print each event, as a JSON line, when it arrives
//
// {"client", "version", "events": [{"id", "type", "data"}], "opens", "errors": [], "ended"}
//
// `opens` counts the responses that began an event stream. `ended` says how the library left off: `clean` (it took the
// stream for complete), `closed` (it stopped reconnecting by itself), `error` (it gave up, or --expect-events was
// exceeded) or `timeout`. `errors` also holds what the library recovered from.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

const shared = {
  url: { type: 'string' },
  method: { type: 'string', default: 'GET' },
  body: { type: 'string' },
  header: { type: 'string', multiple: true, default: [] },
  'expect-events': { type: 'string', default: 'Infinity' },
  timeout: { type: 'string', default: '30000' },
  live: { type: 'boolean', default: false },
};

/** The parsed command line: the shared options, and those only this driver knows. */
export function options(own = {}) {
  const { values } = parseArgs({ options: { ...shared, ...own } });
  if (!values.url) throw new Error('--url is required');
  values.headers = Object.fromEntries(values.header.map((line) => line.match(/^([^:]+):\s*(.*)$/).slice(1)));
  if (values.body !== undefined) values.headers['content-type'] ??= 'application/json';
  return values;
}

/** The version of an installed package. */
export function versionOf(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}

/** Collects what a client sees; `end` prints it and exits the process. */
export class Report {
  #limit;
  #live;
  #seen;
  #ended = false;
  #waiting = new Set();
  /** How many requests of `fetch` were answered, or failed. */
  answered = 0;

  constructor(client, version, values) {
    this.#seen = { client, version, events: [], opens: 0, errors: [] };
    this.#limit = Number(values['expect-events']);
    this.#live = values.live;
    setTimeout(() => this.end('timeout'), Number(values.timeout));
    process.on('uncaughtException', (error) => this.fail(error)); // what the library throws at its caller
  }

  open() {
    this.#seen.opens += 1;
    this.#waiting.forEach((look) => look());
  }

  get opens() {
    return this.#seen.opens;
  }

  /** Waits until a condition on `answered` and `opens` holds. */
  until(condition) {
    return new Promise((resolve) => {
      const look = () => condition() && (this.#waiting.delete(look), resolve());
      this.#waiting.add(look);
      look();
    });
  }

  event(id, type, data) {
    if (this.#ended) return;
    const event = { id: id || null, type: type || 'message', data };
    this.#seen.events.push(event);
    if (this.#live) this.note({ event });
    if (this.#seen.events.length > this.#limit) this.fail(`more than ${this.#limit} events`);
  }

  error(error) {
    this.#seen.errors.push(describe(error));
  }

  fail(error) {
    this.error(error);
    this.end('error');
  }

  /** A JSON line ahead of the report, for a test that has to act while the client runs. */
  note(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }

  end(how) {
    if (this.#ended) return;
    this.#ended = true;
    process.stdout.write(`${JSON.stringify({ ...this.#seen, ended: how })}\n`, () => process.exit(0));
  }

  /** A `fetch` that counts event streams and remembers failures, for libraries that do not tell. */
  fetch = async (input, init) => {
    try {
      const response = await fetch(input, init);
      if (response.status === 200 && response.headers.get('content-type')?.startsWith('text/event-stream')) this.open();
      else this.error(`${response.status} ${response.headers.get('content-type') ?? ''}`.trim());
      return response;
    } catch (error) {
      this.error(error);
      throw error;
    } finally {
      this.answered += 1;
      this.#waiting.forEach((look) => look());
    }
  };
}

function describe(error) {
  if (!(error instanceof Error)) return String(error);
  return error.cause ? `${error.message}: ${describe(error.cause)}` : error.message;
}
