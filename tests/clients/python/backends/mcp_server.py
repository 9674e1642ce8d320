"""An MCP server as the official SDK makes it, over Streamable HTTP; the contract is that of ../../node/backends/mcp_server.mjs.

    --store       with an event store, so that the SDK resumes calls by ids of its own
    --json        answers are JSON
    --unasked     a GET opens the stream on which the server speaks unasked; otherwise 405

It also speaks revision 2026-07-28.
"""

import argparse
import os
import socket
import threading

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage, EventStore
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

options = argparse.ArgumentParser()
options.add_argument("--store", action="store_true")
options.add_argument("--json", action="store_true")
options.add_argument("--unasked", action="store_true")
options = options.parse_args()

stats = {"started": 0, "finished": 0, "aborted": 0, "unasked": 0, "last_event_ids": [], "revisions": []}
allowed = 0
changed = anyio.Event()
server = MCPServer("test", log_level="CRITICAL")


class Store(EventStore):
    """Keeps what the SDK sends, in its order."""

    def __init__(self) -> None:
        self.events = []

    async def store_event(self, stream_id, message):
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id, send_callback):
        after = int(last_event_id)
        stream = self.events[after - 1][0]
        for index, (stream_id, message) in enumerate(self.events[after:], start=after + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(index)))
        return stream


async def permission(step: int) -> None:
    while allowed < step:
        await changed.wait()


async def run(steps: int, context: Context, poll: bool = False) -> str:
    stats["started"] += 1
    outcome = "aborted"
    try:
        for step in range(1, steps + 1):
            await permission(step)
            await context.report_progress(step, steps)
            if poll and step == 1:
                await context.close_sse_stream()
        await permission(steps + 1)
        outcome = "finished"
        return f"counted to {steps}"
    finally:
        stats[outcome] += 1


@server.tool(structured_output=False)
async def count(steps: int, context: Context) -> str:
    return await run(steps, context)


@server.tool(structured_output=False)
async def poll(steps: int, context: Context) -> str:
    return await run(steps, context, poll=True)


@server.tool(structured_output=False)
async def announce(text: str, context: Context) -> str:
    await context.session.send_log_message("info", text)
    return ""


@server.custom_route("/stats", methods=["GET"])
async def show_stats(_: Request) -> Response:
    return JSONResponse(stats)


@server.custom_route("/allow", methods=["GET"])
async def allow(request: Request) -> Response:
    global allowed, changed
    allowed = int(request.query_params["steps"])
    changed.set()
    changed = anyio.Event()
    return JSONResponse(None)


app = server.streamable_http_app(json_response=options.json, event_store=Store() if options.store else None, retry_interval=50)


async def watched(scope, receive, send):
    """Counts, and keeps GETs out that are no resumes."""
    if scope["type"] == "http" and scope["path"] == "/mcp":
        request = Request(scope)
        last_event_id = request.headers.get("last-event-id")
        revision = request.headers.get("mcp-protocol-version")
        if last_event_id:
            stats["last_event_ids"].append(last_event_id)
        if revision and revision not in stats["revisions"]:
            stats["revisions"].append(revision)
        if request.method == "GET" and not last_event_id:
            if not options.unasked:
                return await Response(status_code=405)(scope, receive, send)
            stats["unasked"] += 1
    return await app(scope, receive, send)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    serving = uvicorn.Server(uvicorn.Config(watched, log_level="critical", timeout_graceful_shutdown=1))

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        serving.should_exit = True

    threading.Thread(target=end_with_stdin, daemon=True).start()
    print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    serving.run(sockets=[listener])


if __name__ == "__main__":
    main()
