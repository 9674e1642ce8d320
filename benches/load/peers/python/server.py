"""A resumable service as the documents of FastAPI and Redis show it: each event is an XADD, each client an XREAD BLOCK.

`GET /turn?...` starts a stream that the backend answers; `GET /streams/<id>` with `Last-Event-ID` goes on with it.

server.py <port> <backend> <redis>
"""

import asyncio
import sys
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from redis.asyncio import Redis

PORT, BACKEND, REDIS = sys.argv[1:]
KEPT_SECONDS = 600
BLOCK_MS = 15_000
PAGE = 500


@asynccontextmanager
async def lifespan(app: FastAPI):
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with (
        httpx.AsyncClient(base_url=BACKEND, limits=limits, timeout=None) as backend,
        Redis.from_url(REDIS, max_connections=20_000, socket_timeout=None) as redis,
    ):
        app.state.backend, app.state.redis = backend, redis
        # A task that nobody holds may be collected while it runs.
        app.state.producers = set()
        yield


app = FastAPI(lifespan=lifespan)


async def produce(key: str, query: str) -> None:
    """Writes what the backend answers into the stream, whoever listens."""
    redis: Redis = app.state.redis
    number = 0
    rest = b""
    async with app.state.backend.stream("GET", f"/turn?{query}") as answer:
        async for chunk in answer.aiter_raw():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                number += 1
                await redis.xadd(key, {"event": event}, id=f"0-{number}")
    await redis.xadd(key, {"end": ""}, id=f"0-{number + 1}")
    await redis.expire(key, KEPT_SECONDS)


async def follow(key: str, after: str):
    redis: Redis = app.state.redis
    while True:
        for _, entries in await redis.xread({key: after}, count=PAGE, block=BLOCK_MS) or []:
            for entry, fields in entries:
                if b"event" not in fields:
                    return
                after = entry.decode()
                yield b"%b\nid: %b\n\n" % (fields[b"event"], entry)


def answer(stream: str, after: str) -> StreamingResponse:
    headers = {"cache-control": "no-cache", "x-stream-id": stream}
    return StreamingResponse(follow(f"stream:{stream}", after), media_type="text/event-stream", headers=headers)


@app.get("/turn")
async def start(request: Request) -> StreamingResponse:
    stream = uuid4().hex
    producer = asyncio.create_task(produce(f"stream:{stream}", request.url.query))
    app.state.producers.add(producer)
    producer.add_done_callback(app.state.producers.discard)
    return answer(stream, "0-0")


@app.get("/streams/{stream}")
async def resume(stream: str, request: Request) -> StreamingResponse:
    if not await app.state.redis.exists(f"stream:{stream}"):
        raise HTTPException(404)
    return answer(stream, request.headers.get("last-event-id", "0-0"))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False, log_level="warning", backlog=4096)
