// Reading server-sent events with fetch, and resuming them.
//
// This is all a page needs to survive a cut behind Holdover: remember the last event id and the `Holdover-Resume` header,
// and after a broken read ask that URL with `Last-Event-ID`. The first two panes run this code. An answer that names no
// resume URL simply cannot be continued.

/** How long a cut lasts, in milliseconds: long enough for people to see the gap open. Repeated failures wait longer. */
const PAUSE = 1500;
const LONGEST_PAUSE = 8000;
const ATTEMPTS = 10;
/** How often the growing gap is looked up during the pause, in milliseconds. */
const LOOK = 250;

/** A line end of an event stream: CR, LF or CRLF. A CR at the very end may be half of a CRLF and waits for more. */
const LINE_END = /\r\n|\n|\r(?!$)/;

/**
 * Yields each event of an SSE body as `{id, data}`. Returns at a clean end and throws when the connection breaks. What
 * follows the last blank line is an unfinished event and is dropped, as the HTML standard demands.
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  let id = null;
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end = LINE_END.exec(text); end; end = LINE_END.exec(text)) {
      const line = text.slice(0, end.index);
      text = text.slice(end.index + end[0].length);
      if (line === '') {
        if (data.length) yield { id, data: data.join('\n') };
        data = [];
      } else {
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === 'data') data.push(content);
        else if (field === 'id' && !content.includes('\0')) id = content;
      }
    }
  }
}

/** The position in an event id of Holdover, `<turn>-<seq>`, or null. */
export function seqOf(id) {
  const match = /-(\d+)$/.exec(id ?? '');
  return match && Number(match[1]);
}

/** The server answered, and what it said was no. Trying again would not help. */
export class Refused extends Error {}

/**
 * One turn, followed over as many connections as it takes.
 *
 * `on` hears what happens:
 *   opened({turn, resume})            a connection stands; both are null when nobody records
 *   event({seq, id, data, recovered}) one event
 *   cut(seq)                          the connection broke after event `seq`, a resume follows
 *   behind(status)                    during a cut: how far the turn has got without us
 *   recovered(count)                  what was missed has come, `count` events; the next ones are live
 *   missing(first, last)              a range that is no longer kept
 *   finished() | ended(state) | lost(seq) | failed(error)   the last call: exactly one of them
 */
export class Turn {
  /** `finish` tells the event that ends the turn: a clean end of the connection without it is a cut, too. */
  constructor(on, finish) {
    this.on = on;
    this.isFinish = finish;
    this.turn = null;
    this.resume = null;
    this.lastId = null;
    this.seq = 0;
    /** Where the latest resume began and how far the turn had got by then; null on a first connection. */
    this.from = null;
    this.missed = null;
    this.closed = false;
  }

  /** Sends a message and follows the answer. */
  start(url, body) {
    return this.#follow((signal) => fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    }));
  }

  /** Attaches to a turn by its resume URL, from its first event. */
  attach(resume) {
    this.resume = resume;
    return this.#follow((signal) => this.#resume(signal));
  }

  /** Breaks the connection under the reader, as a lost network would. */
  cut() {
    this.connection?.abort();
  }

  /** Stops following for good: the page or the pane goes away. The turn itself goes on without us. */
  close() {
    this.closed = true;
    this.cut();
  }

  async #follow(connect) {
    for (let attempt = 1; ; attempt += 1) {
      const before = this.seq;
      try {
        this.connection = new AbortController();
        const response = await connect(this.connection.signal);
        if (this.closed) return;
        if (response.status === 204) return this.on.ended((await this.status())?.state ?? 'over');
        // A proxy that restarts answers 5xx for a moment; only a start must not be repeated.
        if (this.resume && response.status >= 500) throw new Error(`status ${response.status}`);
        if (!response.ok) throw new Refused(await reason(response));
        this.#opened(response);
        if (await this.#read(response)) return this.on.finished();
      } catch (error) {
        if (this.closed) return;
        if (error instanceof Refused) return this.on.failed(error);
        // Before the first answer there is nothing to resume from, and sending again could run the turn twice.
        if (!this.resume && this.seq === 0 && error.name !== 'AbortError') return this.on.failed(error);
      }
      if (this.closed) return;
      if (!this.resume) return this.on.lost(this.seq);
      if (this.seq > before) attempt = 1;
      if (attempt > ATTEMPTS) return this.on.lost(this.seq);
      this.on.cut(this.seq);
      await this.#wait(Math.min(PAUSE * attempt, LONGEST_PAUSE));
      if (this.closed) return;
      connect = (signal) => this.#resume(signal);
    }
  }

  /** Asks for everything after the last event. Without one, the turn is read from its start. */
  async #resume(signal) {
    // What is recorded by now was missed and will be replayed; what comes later is live. One stream carries both
    // without a seam, so this look is only for the display.
    this.from = this.seq;
    this.missed = (await this.status(signal))?.last_seq ?? this.from;
    return fetch(this.resume, { headers: this.lastId ? { 'Last-Event-ID': this.lastId } : {}, signal });
  }

  #opened(response) {
    const { headers } = response;
    this.turn = headers.get('Holdover-Turn') ?? this.turn;
    const resume = headers.get('Holdover-Resume');
    if (resume) this.resume = new URL(resume, response.url).href;
    this.on.opened({ turn: this.turn, resume: this.resume });
    const gap = /^(\d+)-(\d+)$/.exec(headers.get('Holdover-Gap') ?? '');
    if (gap) this.on.missing(Number(gap[1]), Number(gap[2]));
    if (this.missed !== null && this.missed <= this.from) this.on.recovered(0);
  }

  /** Reads one connection to its end. Returns true when that is the end of the turn. */
  async #read(response) {
    for await (const { id, data } of readEvents(response.body)) {
      if (this.closed) return false;
      const seq = seqOf(id) ?? this.seq + 1;
      this.seq = Math.max(this.seq, seq);
      this.lastId = id;
      const event = JSON.parse(data);
      const recovered = this.missed !== null && seq <= this.missed;
      this.on.event({ seq, id, data: event, recovered });
      if (recovered && seq === this.missed) this.on.recovered(seq - this.from);
      if (this.isFinish(event)) return true;
    }
    return false;
  }

  /** Waits before the next attempt, and reports how far the turn gets meanwhile. */
  async #wait(pause) {
    const until = Date.now() + pause;
    while (Date.now() < until && !this.closed) {
      await new Promise((wake) => setTimeout(wake, LOOK));
      const status = await this.status();
      if (status && !this.closed) this.on.behind(status);
    }
  }

  /** What Holdover says about the turn, or null when nobody can tell. */
  async status(signal) {
    if (!this.resume) return null;
    try {
      const url = new URL(this.resume);
      url.pathname = url.pathname.replace(/\/stream$/, '');
      const response = await fetch(url, { signal });
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }
}

async function reason(response) {
  const text = await response.text().catch(() => '');
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `status ${response.status}`;
  }
}
