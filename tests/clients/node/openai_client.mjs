// What the drivers of npm `openai` share.

import { Report, versionOf } from './report.mjs';

/** A client of major version `values.major` whose base is `values.url` without `path`, and its report. */
export async function client(values, path) {
  const library = values.major === '7' ? 'openai' : `openai${values.major}`;
  const { default: OpenAI } = await import(library);
  const report = new Report('openai', versionOf(library), values);
  const { origin, pathname, searchParams } = new URL(values.url);
  const client = new OpenAI({
    apiKey: 'test',
    baseURL: origin + pathname.replace(path, ''),
    defaultQuery: Object.fromEntries(searchParams),
    defaultHeaders: values.headers,
    maxRetries: Number(values.retries),
    fetch: report.fetch,
  });
  return { OpenAI, client, report };
}

/** An error as text, with the name of its class. */
export function named(error) {
  const cause = error.cause ? `: ${error.cause.message ?? error.cause}` : '';
  return `${error.constructor.name}: ${error.message}${cause}`;
}
