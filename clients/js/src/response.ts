// An answer with another body that looks as it did.

/** Marks answers that a shim looks after, so that a second one around it leaves them alone. */
const LOOKED_AFTER = Symbol.for('holdover.resumable');

export function isLookedAfter(response: Response): boolean {
  return LOOKED_AFTER in response;
}

/** `original` with `body` in place of its own. */
export function withBody(original: Response, body: ReadableStream<Uint8Array>): Response {
  const { status, statusText, headers } = original;
  return disguise(original, new Response(body as BodyInit, { status, statusText, headers }));
}

/** An answer that a script has made has no URL, and neither has its clone. */
function disguise(original: Response, made: Response): Response {
  return Object.defineProperties(made, {
    url: { value: original.url },
    redirected: { value: original.redirected },
    type: { value: original.type },
    clone: { value: () => disguise(original, Response.prototype.clone.call(made)) },
    [LOOKED_AFTER]: { value: true },
  });
}
