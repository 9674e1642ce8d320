// What a resume says again of the request that started the turn: who asks, and how; not what.

/** Fields that speak of a body. A resume has none. */
const OF_THE_BODY = /^content-/;

/** Fields that a redirect to another origin leaves behind (Fetch, "HTTP-redirect fetch"). */
const CREDENTIALS = ['authorization', 'cookie'];

/** The part of a request that its resumes repeat. */
export interface Repeatable {
  init: RequestInit & { headers: Headers };
  signal: AbortSignal | null | undefined;
  /** Where the request went, before any redirect. */
  target: string;
}

/** Takes it from the arguments of a `fetch`, without touching the body. */
export function repeatable(input: RequestInfo | URL, init: RequestInit = {}): Repeatable {
  const request = input instanceof Request ? input : undefined;
  const headers = new Headers(init.headers ?? request?.headers);
  for (const name of [...headers.keys()]) if (OF_THE_BODY.test(name)) headers.delete(name);
  // `...how` also carries what a platform adds of its own, such as undici's `dispatcher`.
  const { body, signal, ...how } = init;
  return {
    target: request?.url ?? String(input),
    signal: signal === undefined ? request?.signal : signal,
    init: {
      credentials: request?.credentials,
      mode: request?.mode,
      redirect: request?.redirect,
      referrerPolicy: request?.referrerPolicy,
      ...how,
      headers,
      // Chromium lets requests for one URL wait for each other behind its cache: two tabs follow one turn.
      cache: 'no-store',
    },
  };
}

/** Where an answer can be resumed, or undefined if that would be elsewhere than where it came from. */
export function resumeUrl(response: Response, { target, init }: Repeatable): string | undefined {
  const path = response.headers.get('holdover-resume');
  if (!path) return;
  const asked = new URL(new Request(target).url);
  // An answer that a script has made has no URL.
  const { href, origin } = new URL(path, response.url || asked);
  if (origin !== new URL(response.url || asked).origin) return;
  if (origin !== asked.origin) for (const name of CREDENTIALS) init.headers.delete(name);
  return href;
}
