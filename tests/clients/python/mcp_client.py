"""`mcp`: one tool call. The library comes back by itself to a call that was cut off.

The options are those of ../node/mcp.mjs. Without `--revision` it is told to speak the revisions that can be resumed; left to
itself it prefers 2026-07-28.
"""

import json
import sys
from importlib.metadata import version

import anyio
from mcp import Client
from report import Report, parser

options = parser()
options.add_argument("--tool", default="count")
options.add_argument("--steps", type=int, default=3)
options.add_argument("--announce")
options.add_argument("--revision")
options.add_argument("--cancel-at", type=float)
options.add_argument("--pause", action="store_true")
options = options.parse_args()
report = Report("mcp", version("mcp"), options)


async def call(client: Client, name: str, arguments: dict) -> None:
    with anyio.CancelScope() as scope:

        async def progressed(progress: float, *_: object) -> None:
            report.event(None, "progress", f"{progress:g}")
            if progress == options.cancel_at:
                scope.cancel()

        result = await client.call_tool(name, arguments, progress_callback=progressed)
        text = "".join(part.text for part in result.content)
        report.event(None, "error" if result.is_error else "result", text)
    if scope.cancelled_caught:
        report.event(None, "cancelled", "")


async def main() -> None:
    logged = anyio.Event()
    log = []

    async def heard(params: object) -> None:
        log.append(params.data)
        logged.set()

    mode = options.revision or "legacy"
    async with Client(options.url, mode=mode, logging_callback=heard) as client:
        if options.pause:
            print(json.dumps({"connected": None}), flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)
        if options.announce:
            await call(client, "announce", {"text": options.announce})
            await logged.wait()
            report.event(None, "log", log[0])
        else:
            await call(client, options.tool, {"steps": options.steps})
    report.end("clean")


anyio.run(main)
