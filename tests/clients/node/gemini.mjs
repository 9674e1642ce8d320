// npm `@google/genai` (--major 1 or 3): one streamed answer. It never resumes; the start is sent again after an error status
// if `retryOptions` say so (--retries).

import { options, Report, versionOf } from './report.mjs';

const values = options({ major: { type: 'string', default: '3' }, retries: { type: 'string', default: '0' } });
const library = `genai${values.major}`;
const { GoogleGenAI } = await import(library);
const report = new Report('genai', versionOf(library), values);

const retryOptions = Number(values.retries) > 0 ? { attempts: 1 + Number(values.retries), initialDelay: 0.2 } : undefined;
const ai = new GoogleGenAI({
  apiKey: 'test',
  httpOptions: { baseUrl: values.url, headers: values.headers, retryOptions },
});
const request = { model: 'gemini-2.5-flash', contents: values.body ? JSON.parse(values.body).contents : 'Hello' };
for await (const chunk of await ai.models.generateContentStream(request)) {
  const { sdkHttpResponse, ...rest } = chunk;
  report.event(null, 'chunk', JSON.stringify(rest));
}
report.end('clean');
