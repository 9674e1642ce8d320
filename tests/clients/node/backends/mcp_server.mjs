// An MCP server as the official SDK makes it, over Streamable HTTP with sessions; a call dies with its connection unless the
// SDK itself keeps its messages.
//
//   --major 1|2     @modelcontextprotocol/sdk, or @modelcontextprotocol/server (which also speaks revision 2026-07-28)
//   --store         with an event store, so that the SDK resumes calls by ids of its own
//   --json          answers are JSON where they can be
//   --unasked       a GET opens the stream on which the server speaks unasked; otherwise 405
//
// POST, GET, DELETE /mcp     the server. Its tools:
//     count {steps}          reports progress 1, 2, ... steps, each when it is allowed, and then says `counted to {steps}`
//     poll {steps}           the same; with a store, the SDK closes the answer's stream behind step 1 and has its client poll
//     announce {text}        logs the text on the stream for what is unasked
// GET /allow?steps=N         allows all tools to go on to step N; N past the last step allows the result
// GET /stats                 {"started", "finished", "aborted", "unasked", "last_event_ids": [], "revisions": []}: runs of tools,
//                            requests to hear what is unasked, and what requests carried
//
// Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { z } from 'zod';

const { values: options } = parseArgs({
  options: {
    major: { type: 'string', default: '2' },
    store: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    unasked: { type: 'boolean', default: false },
  },
});
const sdk = options.major === '1' ? await version1() : await version2();
const stats = { started: 0, finished: 0, aborted: 0, unasked: 0, last_event_ids: [], revisions: [] };

let allowed = 0;
const waiting = new Set();

/** Resolves when the tools may go as far as this step, and when the call is cancelled. */
async function permission(step, signal) {
  while (allowed < step && !signal.aborted) {
    await new Promise((resolve) => {
      waiting.add(resolve);
      signal.addEventListener('abort', resolve, { once: true });
    });
  }
}

function allow(steps) {
  allowed = steps;
  for (const resolve of waiting) resolve();
  waiting.clear();
}

/** Keeps what an SDK sends, in its order. */
class EventStore {
  #events = [];

  async storeEvent(streamId, message) {
    return String(this.#events.push({ streamId, message }));
  }

  async getStreamIdForEventId(eventId) {
    return this.#events[Number(eventId) - 1]?.streamId;
  }

  async replayEventsAfter(eventId, { send }) {
    const { streamId } = this.#events[Number(eventId) - 1];
    for (const [index, event] of this.#events.entries()) {
      const isMessage = Object.keys(event.message).length > 0;
      if (index >= Number(eventId) && event.streamId === streamId && isMessage) await send(String(index + 1), event.message);
    }
    return streamId;
  }
}

function server() {
  const server = new sdk.McpServer({ name: 'test', version: '1' }, { capabilities: { logging: {} } });
  const run = async (steps, context, at = () => {}) => {
    const { signal, notify, token } = sdk.call(context);
    stats.started += 1;
    for (let step = 1; step <= steps; step += 1) {
      await permission(step, signal);
      if (signal.aborted) break;
      if (token !== undefined) {
        await notify({ method: 'notifications/progress', params: { progressToken: token, progress: step, total: steps } });
      }
      at(step);
    }
    await permission(steps + 1, signal);
    stats[signal.aborted ? 'aborted' : 'finished'] += 1;
    return { content: [{ type: 'text', text: `counted to ${steps}` }] };
  };
  const inputSchema = sdk.schema({ steps: z.number() });
  server.registerTool('count', { inputSchema }, ({ steps }, context) => run(steps, context));
  server.registerTool('poll', { inputSchema }, ({ steps }, context) =>
    run(steps, context, (step) => step === 1 && sdk.closeStream(context)),
  );
  server.registerTool('announce', { inputSchema: sdk.schema({ text: z.string() }) }, async ({ text }) => {
    await server.server.notification({ method: 'notifications/message', params: { level: 'info', data: text } });
    return { content: [] };
  });
  return server;
}

async function version1() {
  const { McpServer } = await import('@modelcontextprotocol/sdk/server/mcp.js');
  const { StreamableHTTPServerTransport: Transport } = await import('@modelcontextprotocol/sdk/server/streamableHttp.js');
  return {
    McpServer,
    Transport,
    schema: (shape) => shape,
    call: (extra) => ({
      signal: extra.signal,
      notify: extra.sendNotification,
      token: extra._meta?.progressToken,
    }),
    closeStream: (extra) => extra.closeSSEStream?.(),
    modern: async () => false,
  };
}

async function version2() {
  const { McpServer, createMcpHandler, isLegacyRequest } = await import('@modelcontextprotocol/server');
  const { NodeStreamableHTTPServerTransport: Transport, toNodeHandler, toWebRequest } = await import(
    '@modelcontextprotocol/node'
  );
  const handler = toNodeHandler(createMcpHandler(() => server(), { legacy: 'reject' }));
  return {
    McpServer,
    Transport,
    schema: (shape) => z.object(shape),
    call: (context) => ({
      signal: context.mcpReq.signal,
      notify: context.mcpReq.notify,
      token: context.mcpReq._meta?.progressToken,
    }),
    closeStream: (context) => context.http?.closeSSE?.(),
    modern: async (request, response, body) => {
      if (await isLegacyRequest(await toWebRequest(request, body), body)) return false;
      await handler(request, response, body);
      return true;
    },
  };
}

const sessions = new Map();
// Shared, as one that outlives its sessions would be.
const eventStore = options.store ? new EventStore() : undefined;

async function mcp(request, response) {
  const { 'last-event-id': lastEventId, 'mcp-session-id': id, 'mcp-protocol-version': revision } = request.headers;
  if (lastEventId) stats.last_event_ids.push(lastEventId);
  if (revision && !stats.revisions.includes(revision)) stats.revisions.push(revision);
  if (request.method === 'GET' && !lastEventId) {
    if (!options.unasked) return response.writeHead(405).end();
    stats.unasked += 1;
  }
  const body = request.method === 'POST' ? await json(request) : undefined;
  if (body && (await sdk.modern(request, response, body))) return undefined;
  let transport = sessions.get(id);
  if (!transport && body?.method === 'initialize') {
    transport = new sdk.Transport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (session) => sessions.set(session, transport),
      enableJsonResponse: options.json,
      eventStore,
      retryInterval: eventStore && 50,
    });
    await server().connect(transport);
  }
  if (!transport) return response.writeHead(id ? 404 : 400).end();
  return transport.handleRequest(request, response, body);
}

async function json(request) {
  const chunks = await Array.fromAsync(request);
  return JSON.parse(Buffer.concat(chunks).toString());
}

const http = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  try {
    if (pathname === '/mcp') await mcp(request, response);
    else if (pathname === '/stats') response.end(JSON.stringify(stats));
    else if (pathname === '/allow') response.end(JSON.stringify(allow(Number(searchParams.get('steps'))) ?? null));
    else response.writeHead(404).end();
  } catch (error) {
    console.error(error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  }
});
http.listen(0, '127.0.0.1', () => console.log(`listening 127.0.0.1:${http.address().port}`));
process.stdin.resume().on('end', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
