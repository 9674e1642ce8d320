// When to try again, and when to give up.

/** How long to believe a browser that says it is offline, in milliseconds. It may be wrong: a server on the same machine
 *  can be reached without a network. */
const OFFLINE = 30_000;

/** Milliseconds to wait before the n-th attempt, from 1. */
export function delayOf(attempt: number, { minDelay, maxDelay }: { minDelay: number; maxDelay: number }): number {
  const longest = Math.min(maxDelay, minDelay * 2 ** (attempt - 1));
  // Jitter: all clients of a proxy that restarts are cut at once, and should not come back at once.
  return Math.round((longest * (1 + Math.random())) / 2);
}

/** Waits. The browser's news that it is online again ends it at once, and so does `signal`. */
export function pause(delay: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.('online', done);
      resolve();
    };
    const offline = navigator.onLine === false;
    const timer = setTimeout(done, offline ? Math.max(delay, OFFLINE) : delay);
    globalThis.addEventListener?.('online', done);
    signal.addEventListener('abort', done);
  });
}
