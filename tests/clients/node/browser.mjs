// Chromium without a window, driven through playwright-core, with a blank page to run a client on.

import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const places = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Starts Chromium; it ends with this process. `pid` is the browser's, for tests that kill it. */
export async function launch() {
  const executablePath = places.find((place) => place && existsSync(place));
  if (!executablePath) throw new Error('no Chromium found: run scripts/setup test, or set CHROMIUM');
  const server = await chromium.launchServer({ executablePath, args: flags });
  const browser = await chromium.connect(server.wsEndpoint());
  return { browser, pid: server.process().pid, version: browser.version() };
}

/**
 * Opens a blank page that can import `modules` (a path → a file below node_modules, or `{ body }`), on the origin of
 * `url`. That origin's server is asked neither for the page nor for the modules; whatever the page does then goes over the network.
 */
export async function openPage(browser, url, modules = {}) {
  const page = await (await browser.newContext()).newPage();
  const { origin } = new URL(url);
  for (const [path, file] of files(modules)) await page.route(origin + path, (route) => route.fulfill(file));
  await visit(page, origin, modules);
  await page.unrouteAll();
  return page;
}

/** As `openPage`, on an origin of its own, to which every other is foreign. */
export async function openForeignPage(browser, modules = {}) {
  // A real server: Chromium treats a page that came over no network differently when it asks another origin.
  const served = new Map(files(modules));
  const server = createServer((request, response) => {
    const { contentType, body, status } = served.get(request.url) ?? { status: 404 };
    response.writeHead(status ?? 200, { 'content-type': contentType ?? 'text/plain' }).end(body);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const page = await (await browser.newContext()).newPage();
  await visit(page, `http://127.0.0.1:${server.address().port}`, modules);
  return page;
}

function files(modules) {
  const blank = '<!doctype html><title>test</title><link rel="icon" href="data:,">';
  const scripts = Object.entries(modules).map(([path, file]) => {
    const body = file.body ? Buffer.from(file.body) : readFileSync(new URL(`node_modules/${file}`, import.meta.url));
    return [path, { contentType: 'text/javascript', body }];
  });
  return [['/blank.html', { contentType: 'text/html', body: blank }], ...scripts];
}

async function visit(page, origin, modules) {
  await page.goto(`${origin}/blank.html`);
  for (const path of Object.keys(modules)) await page.evaluate((module) => import(module), path);
}
