// A service worker that makes every fetch of its pages resumable, without a change to them.

import { resumableFetch } from './resume.ts';
import { isLookedAfter } from './response.ts';

// The types of a worker's globals cannot stand beside those of a window.
interface FetchEvent extends Event {
  readonly request: Request;
  readonly clientId: string;
  respondWith(response: Promise<Response>): void;
  waitUntil(done: Promise<unknown>): void;
}
interface Client {
  postMessage(message: unknown): void;
}
declare const clients: { claim(): Promise<void>; get(id: string): Promise<Client | undefined> };
declare const skipWaiting: () => Promise<void>;

/** How long a page may take to be gone, in milliseconds. */
const GOING = 1_000;

addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => (event as FetchEvent).waitUntil(clients.claim()));
addEventListener('fetch', (event) => take(event as FetchEvent));

function take(event: FetchEvent) {
  const { request, clientId } = event;
  // Only what scripts fetch: no pages, images and the like.
  if (request.mode === 'navigate' || request.destination !== '' || !/^https?:/.test(request.url)) return;
  // A worker with nothing to wait for may be ended in mid-answer.
  let over = () => {};
  event.waitUntil(new Promise<void>((resolve) => (over = resolve)));
  const ask = resumableFetch({
    // To a worker, a reader that leaves and a page that is closed look alike, until the page is gone.
    async stopOnAbort() {
      await new Promise((passed) => setTimeout(passed, GOING));
      return (await clients.get(clientId)) !== undefined;
    },
    async onEvent(news) {
      if (news.type === 'ended' || news.type === 'failed') over();
      // The stop is still to be sent.
      if (news.type === 'stopped') setTimeout(over, 2 * GOING);
      const { error, ...rest } = news as typeof news & { error?: unknown };
      (await clients.get(clientId))?.postMessage({ ...rest, type: `holdover:${news.type}`, error: error && String(error) });
    },
  });
  const answered = ask(request).then((response) => {
    if (!isLookedAfter(response)) over();
    return response;
  });
  answered.catch(over);
  event.respondWith(answered);
}
