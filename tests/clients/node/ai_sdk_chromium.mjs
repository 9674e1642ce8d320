// `useChat` of the AI SDK in Chromium, bundled, with `resume: true`. --url is the chat's api, --major the SDK's, --chat its
// id, --cookie a cookie of the page; with --own-chat the application makes the `Chat` and gives it to the hook.
//
//   --plan visible   sends a message whose turn pauses (--pause); when the connection fails, the page becomes visible, as
//                    after a nap; lets the turn go on (POST --go) when the chat streams again
//   --plan reload    sends a message whose turn pauses; when something of the answer is there, reloads the page, and lets
//                    the turn go on when the answer is there again. The page is of another origin
//
// --body is merged into the request's. The report has an event per part of the assistant's messages at the end: `id` is the
// message's.

import { build } from 'esbuild';
import { launch, openForeignPage, openPage } from './browser.mjs';
import { majors } from './chat_page.mjs';
import { options, Report, versionOf } from './report.mjs';

const values = options({
  major: { type: 'string', default: '7' },
  chat: { type: 'string', default: 'a-chat' },
  plan: { type: 'string', default: 'visible' },
  pause: { type: 'string' },
  cookie: { type: 'string' },
  'own-chat': { type: 'boolean', default: false },
  go: { type: 'string' },
});
const { sdk, react } = majors[values.major];
const script = `
  import * as React from 'react';
  import { createRoot } from 'react-dom/client';
  import { Chat, useChat } from '${react}';
  import { DefaultChatTransport } from '${sdk}';
  import { answers, openPage, rests } from './chat_page.mjs';

  Object.assign(globalThis, { answers, rests });
  globalThis.load = (api, id, messages) => {
    globalThis.failures = [];
    const onError = (error) => failures.push(error.message);
    const settings = { id, messages, transport: new DefaultChatTransport({ api }), onError };
    const given = ${values['own-chat']} ? { chat: new Chat(settings) } : settings;
    globalThis.chat = openPage({ React, createRoot }, () => useChat({ ...given, resume: true }));
  };
`;
const { outputFiles } = await build({
  stdin: { contents: script, resolveDir: import.meta.dirname },
  bundle: true,
  format: 'esm',
  platform: 'browser',
  define: { 'process.env.NODE_ENV': '"production"' },
  write: false,
});
const modules = { '/chat.js': Buffer.from(outputFiles[0].contents) };
const report = new Report('useChat in Chromium', versionOf(react), values);
const { browser } = await launch();
const body = { ...JSON.parse(values.body ?? '{}'), pause: Number(values.pause) };

/** The chat's page; its cookie is there before the chat is. */
async function open() {
  const page = await (values.plan === 'reload' ? openForeignPage(browser, modules) : openPage(browser, values.url, modules));
  if (values.cookie) {
    const [name, value] = values.cookie.split('=');
    await page.context().addCookies([{ name, value, url: values.url }]);
  }
  page.on('response', (response) => {
    if (!response.url().startsWith(values.url) || response.request().method() === 'OPTIONS') return;
    if (response.status() === 200) report.open();
    else report.error(`${response.status()}`);
  });
  return page;
}

/** Renders the chat, and waits until it has asked for what it missed. */
async function load(page, messages) {
  const answered = page.waitForResponse((response) => response.url().endsWith('/stream'));
  await page.evaluate(([api, id, messages]) => load(api, id, messages), [values.url, values.chat, messages]);
  await answered;
}

const send = (page) =>
  page.evaluate(async (body) => {
    await chat.until(({ status }) => status === 'ready');
    chat.state.sendMessage({ text: 'Weather in Ulm?' }, { body });
    await chat.until(answers);
  }, body);

const go = () => fetch(values.go, { method: 'POST' });

const plans = {
  async visible(page) {
    await load(page, []);
    await send(page);
    await page.evaluate(() => chat.until(({ status }) => status === 'error'));
    await page.evaluate(() => {
      document.dispatchEvent(new Event('visibilitychange'));
      return chat.until(({ status }) => status === 'streaming');
    });
  },
  async reload(page) {
    await load(page, []);
    await send(page);
    const question = await page.evaluate(() => chat.state.messages.slice(0, 1));
    await page.reload();
    await page.evaluate((module) => import(module), '/chat.js');
    await load(page, question);
    await page.evaluate(() => chat.until(answers));
  },
};

const page = await open();
await plans[values.plan](page);
await go();
const { messages, failures } = await page.evaluate(async () => {
  const { messages, status } = await chat.until(rests);
  return { messages, failures: status === 'ready' ? failures : [...failures, status] };
});
failures.forEach((failure) => report.error(failure));
for (const message of messages.filter(({ role }) => role === 'assistant')) {
  for (const part of message.parts) report.event(message.id, part.type, JSON.stringify(part));
}
report.end('clean');
