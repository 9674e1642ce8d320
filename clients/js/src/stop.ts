// Stopping turns, unless it is the page that goes away: it will come back for them.

let departures = 0;
globalThis.addEventListener?.('pagehide', () => (departures += 1));

/** Runs `send` in a moment. Pages that go away abort their requests, too; for them that moment never comes, or comes when
 *  they are back. Gives a function that calls it off. */
export function unlessLeaving(send: () => void, delay = 0): () => void {
  const before = departures;
  const timer = setTimeout(() => departures === before && send(), delay);
  return () => clearTimeout(timer);
}
