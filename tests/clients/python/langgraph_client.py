"""`langgraph-sdk` on the API at `--url`. It goes on by itself with `GET <Location>` + `Last-Event-ID` when a stream breaks,
and when it ends while the run, asked for, is still pending or running.

`--action stream` starts a run on `--thread` and reads it; `join` reads `--run` from `--last-event-id` on; `cancel` cancels
`--run`. `--sync` takes the client without asyncio. With `--live` the run is told ahead: {"run"}.
"""

import asyncio
import json
import logging
from importlib.metadata import version

from langgraph_sdk import get_client, get_sync_client
from report import Report, headers, parser

options = parser()
options.add_argument("--action", default="stream")
options.add_argument("--thread", default="a-thread")
options.add_argument("--run")
options.add_argument("--last-event-id")
options.add_argument("--sync", action="store_true")
options = options.parse_args()
report = Report("langgraph-sdk-python", version("langgraph-sdk"), options)
logging.captureWarnings(True)


def created(run: dict) -> None:
    if options.live:
        print(json.dumps({"run": run["run_id"]}), flush=True)


def parts(runs):
    """What the library streams, whichever of its clients it is."""
    if options.action == "join":
        return runs.join_stream(options.thread, options.run, last_event_id=options.last_event_id)
    return runs.stream(
        options.thread,
        "agent",
        input=json.loads(options.body or '{"messages": []}'),
        stream_mode=["values"],
        stream_resumable=True,
        on_disconnect="continue",
        on_run_created=created,
    )


def tell(part) -> None:
    report.event(part.id, part.event, json.dumps(part.data, separators=(",", ":"), ensure_ascii=False))


async def asynchronous() -> None:
    client = get_client(url=options.url, api_key=None, headers=headers(options))
    if options.action == "cancel":
        await client.runs.cancel(options.thread, options.run)
        return
    async for part in parts(client.runs):
        tell(part)


def synchronous() -> None:
    client = get_sync_client(url=options.url, api_key=None, headers=headers(options))
    if options.action == "cancel":
        client.runs.cancel(options.thread, options.run)
        return
    for part in parts(client.runs):
        tell(part)


if options.sync:
    synchronous()
else:
    asyncio.run(asynchronous())
report.end("clean")
