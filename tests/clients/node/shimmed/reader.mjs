// A reader as one writes it by hand, on the global fetch.

import { ask } from '../snippets/reader.mjs';

export async function run({ url, event, signal }) {
  await ask(url, 'Hello', event, signal);
}
