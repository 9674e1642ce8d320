// One turn, read over as many connections as it takes, handed on as one body.

import { delayOf, pause } from './backoff.ts';
import { Blocks, idOf, join } from './blocks.ts';
import type { Repeatable } from './request.ts';
import { type Settings, TurnError, type TurnErrorCode, type TurnEvent } from './resume.ts';
import { unlessLeaving } from './stop.ts';

/** How long a resume may take to be answered, in milliseconds. Holdover answers at once, or holds it for 5 s. */
const ANSWER = 20_000;
/** How long to look for the end of the turn behind a reader who has left, in milliseconds. */
const LAST_LOOK = 1_000;

/** Statuses that are worth another try. A 200 that is no event stream comes from somebody in between, such as the network
 *  of a hotel. */
const TRY_AGAIN = /200|408|425|429|5../;
/** Outcomes of a turn whose answer is not whole. */
const NOT_WHOLE = /failed|interrupted|expired/;

/** An event, but for what is the same in all of a turn. */
type News<E = TurnEvent> = E extends TurnEvent ? Omit<E, 'turn' | 'url'> : never;

export class Turn {
  /** Where it is resumed and stopped. */
  readonly #url: string;
  readonly #about: { turn: string; url: string };
  readonly #again: Repeatable;
  readonly #settings: Settings;
  /** Attempts since something last came through, and the milliseconds spent on them. Pauses count as they were meant, not
   *  as they passed: a laptop that slept for an hour has not tried for an hour. */
  #attempts = 0;
  #spent = 0;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  /** The connection, unless there is none just now. */
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #blocks = new Blocks();
  /** Ends what is under way to another connection, and that connection. */
  #hangUp = new AbortController();
  /** The id of the last event that was handed on. */
  #lastId: string | undefined;
  /** The body has ended, has failed, or is not wanted any more. */
  #over = false;

  constructor(first: Response, url: string, again: Repeatable, settings: Settings) {
    this.#url = url;
    this.#about = { turn: first.headers.get('holdover-turn')!, url: first.url };
    this.#again = again;
    this.#settings = settings;
    this.#reader = first.body!.getReader();
  }

  /** Its events. It reads when it is read: a slow reader slows the connection, and nothing piles up here. */
  body(): ReadableStream<Uint8Array> {
    return new ReadableStream(
      {
        start: (controller) => {
          this.#controller = controller;
          this.#again.signal?.addEventListener('abort', this.#aborted);
        },
        pull: () => this.#pull(),
        cancel: () => this.#cancelled(),
      },
      { highWaterMark: 0 },
    );
  }

  async #pull(): Promise<void> {
    while (!this.#over) {
      try {
        const { done, value } = await this.#read();
        if (this.#over) return;
        if (done) {
          const rest = this.#blocks.rest();
          if (rest.length > 0) this.#controller.enqueue(rest);
          return this.#close();
        }
        const fresh = this.#blocks.take(value).filter((block) => this.#isFresh(block));
        if (fresh.length > 0) return this.#controller.enqueue(join(fresh));
      } catch (error) {
        if (this.#over) return;
        // Not a broken connection: somebody below us has ended it on purpose.
        if (/^(Abort|Timeout)E/.test((error as Error)?.name)) return this.#aborted(error);
        await this.#reconnect(error);
      }
    }
  }

  /** The next chunk of the connection. One that is silent for too long counts as broken. */
  #read(): Promise<ReadableStreamReadResult<Uint8Array>> {
    return new Promise((resolve, reject) => {
      const reader = this.#reader!;
      const { idleTimeout } = this.#settings;
      const silent = () => {
        reject(new Error('silence'));
        drop(reader);
        // It was up all that time: no reason to give up.
        this.#progress();
      };
      const timer = idleTimeout && setTimeout(silent, idleTimeout);
      reader.read().then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  /** False for what was handed on before: a server that lacks our place begins at an earlier one. */
  #isFresh(block: Uint8Array): boolean {
    const id = idOf(block);
    if (!id) return true;
    const [turn, seq] = placeOf(this.#lastId);
    const [nextTurn, nextSeq] = placeOf(id);
    if (nextTurn === turn && nextSeq <= seq) return false;
    this.#lastId = id;
    this.#progress();
    return true;
  }

  #progress() {
    this.#attempts = 0;
    this.#spent = 0;
  }

  /** Gets another connection, or ends the body with the reason why there is none. */
  async #reconnect(error: unknown) {
    this.#reader = undefined;
    this.#tell({ type: 'interrupted', error });
    let atLeast: number | undefined = 0;
    while (atLeast !== undefined && !this.#over) {
      if (this.#spent >= this.#settings.giveUpAfter) return this.#fail('gave_up', 'No event came for too long.', error);
      this.#attempts += 1;
      const delay = Math.max(atLeast, delayOf(this.#attempts, this.#settings));
      this.#spent += delay;
      this.#tell({ type: 'reconnecting', attempt: this.#attempts, delay });
      this.#hangUp = new AbortController();
      await pause(delay, this.#hangUp.signal);
      atLeast = await this.#attempt();
    }
  }

  /** Asks for what is missing. Gives the milliseconds to wait at least before the next attempt, if there is to be one. */
  async #attempt(): Promise<number | undefined> {
    if (this.#over) return;
    const began = Date.now();
    const { signal } = this.#hangUp;
    const timer = setTimeout(() => this.#hangUp.abort(), ANSWER);
    const response = await this.#send('GET', { signal }).catch(() => undefined);
    clearTimeout(timer);
    this.#spent += Math.min(Date.now() - began, ANSWER);
    const again = response ? this.#answered(response) : 0;
    if (!this.#reader) drop(response?.body);
    return again;
  }

  /** What an answer to a resume means (`docs/http.md`). Gives the same as `#attempt`. */
  #answered(response: Response): number | undefined {
    if (this.#over) return;
    const { status, headers } = response;
    if (status === 200 && isEventStream(response)) {
      if (!this.#mayMiss(headers)) return;
      this.#reader = response.body!.getReader();
      this.#blocks = new Blocks();
      return this.#tell({ type: 'resumed', attempt: this.#attempts });
    }
    if (status === 204) {
      const state = headers.get('holdover-state') as TurnErrorCode;
      return NOT_WHOLE.test(state) ? this.#fail(state, `The turn is ${state}.`) : this.#close();
    }
    if (status === 404 || status === 410) return this.#fail('unknown', 'The turn is gone.');
    // It does not skip by itself. The next attempt asks for what stands behind the gap.
    if (status === 409) return this.#mayMiss(headers, true) ? 0 : undefined;
    if (TRY_AGAIN.test(`${status}`)) return Number(headers.get('retry-after')) * 1000 || 0;
    this.#fail('refused', `The resume was answered ${status}.`);
  }

  /** Whether to go on in spite of a gap, if there is one. If not, the body has failed. */
  #mayMiss(headers: Headers, refused = false): boolean {
    const [gap, first, last] = /^(\d+)-(\d*)$/.exec(headers.get('holdover-gap') ?? '') ?? [];
    if (!gap && !refused) return true;
    const ahead = Number(last) > placeOf(this.#lastId)[1];
    if (!ahead || this.#settings.onGap !== 'skip') {
      this.#fail('gap', `Events ${gap ?? ''} are gone.`);
      return false;
    }
    this.#lastId = `${this.#about.turn}-${last}`;
    this.#tell({ type: 'gap', first: Number(first), last: Number(last) });
    return true;
  }

  #send(method: string, how: RequestInit): Promise<Response> {
    const headers = new Headers(this.#again.init.headers);
    if (this.#lastId) headers.set('last-event-id', this.#lastId);
    return this.#settings.fetch(this.#url, { ...this.#again.init, ...how, method, headers });
  }

  #close(): undefined {
    this.#finish();
    this.#tell({ type: 'ended' });
    this.#controller.close();
  }

  #fail(code: TurnErrorCode, detail: string, cause?: unknown): undefined {
    const error = new TurnError(code, detail, cause);
    this.#finish();
    this.#tell({ type: 'failed', error });
    this.#controller.error(error);
  }

  /** By the signal of the request, or by whoever has given this error. */
  #aborted = (error?: unknown) => {
    const { signal } = this.#again;
    this.#finish();
    this.#controller.error(signal?.aborted ? signal.reason : error);
    this.#stop();
  };

  /** The reader has left. Some leave behind the last event that means something to them; the end of the turn is then
   *  close behind, and one that ends by itself is not to be stopped. */
  #cancelled() {
    const reader = this.#reader;
    this.#finish();
    if (!reader) return this.#stop();
    const giveUp = unlessLeaving(() => {
      drop(reader);
      this.#stop();
    }, LAST_LOOK);
    const look = async () => {
      while (!(await reader.read()).done);
      giveUp();
    };
    look().catch(() => {});
  }

  #finish() {
    this.#over = true;
    this.#again.signal?.removeEventListener('abort', this.#aborted);
  }

  #stop() {
    this.#hangUp.abort();
    this.#tell({ type: 'stopped' });
    const { stopOnAbort } = this.#settings;
    unlessLeaving(async () => {
      const stops = typeof stopOnAbort === 'function' ? await stopOnAbort() : stopOnAbort;
      // `keepalive`: the page may leave right behind it.
      if (stops) this.#send('DELETE', { keepalive: true }).then(({ body }) => drop(body), () => {});
    });
  }

  #tell(news: News): undefined {
    this.#settings.tell({ ...news, ...this.#about } as TurnEvent);
  }
}

/** Lets go of a body that nobody wants. */
function drop(body: { cancel(): Promise<void> } | null | undefined) {
  body?.cancel().catch(() => {});
}

/** An event id of Holdover is `<turn>-<seq>`. */
function placeOf(id = ''): [turn: string, seq: number] {
  const dash = id.lastIndexOf('-');
  return [id.slice(0, dash), Number(id.slice(dash + 1))];
}

export function isEventStream({ headers, body }: Response): boolean {
  // Some that are no browser have bodies of another kind.
  return /^text\/event-stream/i.test(headers.get('content-type')!) && Boolean(body?.getReader);
}
