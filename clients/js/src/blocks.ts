// Cuts an event stream between its events. What the page is handed always ends there, so that whatever a broken
// connection takes along can be asked for again, and nothing that was handed on comes twice.

const LF = 10;
const CR = 13;
const COLON = 58;

/** Reads one connection: chunks go in as they come, whole events come out, byte for byte. A BOM in front makes the first
 *  line longer, which changes nothing here. */
export class Blocks {
  /** What has come of a block that is not whole yet. */
  #torn: Uint8Array[] = [];
  /** Bytes on the line so far. */
  #line = 0;
  /** Whether the block so far has nothing but comment lines, which may go ahead of it: keep-alives must not be held. */
  #onlyComments = true;
  /** The last chunk ended in a CR, which may be half of a CRLF. */
  #afterCr = false;

  /** The blocks and comment lines that this chunk has made whole. They do not share memory with it. */
  take(chunk: Uint8Array): Uint8Array[] {
    const whole: Uint8Array[] = [];
    let from = 0;
    for (let at = 0; at < chunk.length; at += 1) {
      const byte = chunk[at];
      const restOfCrlf = this.#afterCr && byte === LF;
      this.#afterCr = false;
      if (restOfCrlf) continue;
      if (byte !== LF && byte !== CR) {
        this.#onlyComments &&= this.#line > 0 || byte === COLON;
        this.#line += 1;
        continue;
      }
      if (byte === CR) {
        if (chunk[at + 1] === LF) at += 1;
        else this.#afterCr = at + 1 === chunk.length;
      }
      if (this.#line === 0 || this.#onlyComments) {
        whole.push(join([...this.#torn, chunk.subarray(from, at + 1)]));
        this.#torn = [];
        this.#onlyComments = true;
        from = at + 1;
      }
      this.#line = 0;
    }
    // A copy: whoever gave the chunk may use its memory again.
    this.#torn.push(chunk.slice(from));
    return whole;
  }

  /** What stands behind the last whole block. At a clean end it is the stream's; at a break it is to be forgotten. */
  rest(): Uint8Array {
    return join(this.#torn);
  }
}

const decoder = new TextDecoder();

/** The event id in a block: the value of its last `id:` line. */
export function idOf(block: Uint8Array): string | undefined {
  const lines = decoder.decode(block).matchAll(/(?:^|[\r\n])id: ?([^\r\n]*)/g);
  return [...lines].pop()?.[1];
}

/** A copy of all of them in a row. */
export function join(pieces: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
