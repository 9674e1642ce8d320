// A fetch that survives broken connections behind Holdover. This file is all that a page sees of it.

import { repeatable, resumeUrl } from './request.ts';
import { isLookedAfter, withBody } from './response.ts';
import { isEventStream, Turn } from './turn.ts';

/** Every one has a default. */
export interface ResumeOptions {
  /** The fetch to wrap. Resumes and stops go through it, too. Default: the global one. */
  fetch?: typeof fetch;
  /** The longest pause before the first attempt to reconnect, in milliseconds. Each next one is twice as long. Default: 200. */
  minDelay?: number;
  /** The longest pause at all, in milliseconds. Default: 5000. */
  maxDelay?: number;
  /** How long to go on without a new event before the body fails, in milliseconds. Time offline does not count.
   *  Default: 120000. */
  giveUpAfter?: number;
  /** A connection on which nothing comes for so long counts as broken, in milliseconds; 0: never. Keep it well above the
   *  route's `keepalive`. Default: 45000. */
  idleTimeout?: number;
  /** Whether a request that is aborted, or a body that is cancelled, stops the turn at the backend. Leaving the page
   *  never does. A function is asked each time. Default: true. */
  stopOnAbort?: boolean | (() => boolean | Promise<boolean>);
  /** What to do when events are not kept any more: `error` fails the body, `skip` goes on behind them. Default: `error`. */
  onGap?: 'error' | 'skip';
  /** Called with everything that happens. Where there is a global `dispatchEvent`, each is also a `CustomEvent` there:
   *  `holdover:<type>`, with the same in `detail`. */
  onEvent?: (event: TurnEvent) => void;
}

/**
 * What happens to a turn. `url` is where its answer came from.
 *
 * - `interrupted`: the connection broke, by this error.
 * - `reconnecting`: an attempt will be made in `delay` milliseconds. `attempt` counts from 1 since the last event.
 * - `resumed`: the body goes on.
 * - `gap`: with `onGap: 'skip'`, these seqs are missing.
 * - `ended`: the body has ended as the answer did.
 * - `stopped`: the reader has left.
 * - `failed`: the body has failed.
 *
 * The last three are the last of a turn.
 */
export type TurnEvent = { turn: string; url: string } & (
  | { type: 'interrupted'; error: unknown }
  | { type: 'reconnecting'; attempt: number; delay: number }
  | { type: 'resumed'; attempt: number }
  | { type: 'gap'; first: number; last: number }
  | { type: 'ended' }
  | { type: 'stopped' }
  | { type: 'failed'; error: TurnError }
);

/** Why a body failed: the turn itself `failed`, was `interrupted` or `expired`; it is `unknown` now; events are missing
 *  (`gap`); the resume was `refused`; or nothing came through for too long (`gave_up`). */
export type TurnErrorCode = 'failed' | 'interrupted' | 'expired' | 'unknown' | 'gap' | 'refused' | 'gave_up';

/** What a body fails with. To code that does not know it, it is the error of a browser whose connection broke. What went
 *  wrong is in `code`, and for people in `cause`. */
export class TurnError extends TypeError {
  readonly code: TurnErrorCode;

  constructor(code: TurnErrorCode, detail: string, cause?: unknown) {
    super('network error', { cause: new Error(detail, { cause }) });
    this.code = code;
  }
}

/** @internal */
export interface Settings extends Required<Omit<ResumeOptions, 'onEvent'>> {
  tell(event: TurnEvent): void;
}

/** A function to be used as `fetch`. Answers that are not turns of Holdover pass as they are. */
export function resumableFetch(options: ResumeOptions = {}): typeof fetch {
  const settings = settingsOf(options);
  const ask = settings.fetch;
  return async (input: RequestInfo | URL, init?: RequestInit) => {
    // Taken now: the caller may change them later.
    const again = repeatable(input, init);
    const response = await ask(input, init);
    if (response.status !== 200 || !isEventStream(response) || isLookedAfter(response)) return response;
    const url = resumeUrl(response, again);
    return url ? withBody(response, new Turn(response, url, again, settings).body()) : response;
  };
}

/** Puts it in the place of the global `fetch`. Gives a function that takes it out again. */
export function install(options?: ResumeOptions): () => void {
  const before = globalThis.fetch;
  const resumable = resumableFetch(options);
  globalThis.fetch = resumable;
  return () => {
    // Somebody may have wrapped it since; then it stays below theirs.
    if (globalThis.fetch === resumable) globalThis.fetch = before;
  };
}

function settingsOf({ onEvent, ...options }: ResumeOptions): Settings {
  const { fetch = globalThis.fetch } = options;
  return {
    minDelay: 200,
    maxDelay: 5_000,
    giveUpAfter: 120_000,
    idleTimeout: 45_000,
    stopOnAbort: true,
    onGap: 'error',
    ...options,
    // A browser's fetch must not be called as a method of something else.
    fetch: (input, init) => fetch(input, init),
    tell(event) {
      // Later, and apart from the stream: a mistake in it is told as any other, and breaks no answer.
      Promise.resolve(event).then(onEvent);
      globalThis.dispatchEvent?.(new CustomEvent(`holdover:${event.type}`, { detail: event }));
    },
  };
}
