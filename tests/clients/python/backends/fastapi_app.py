"""A chat API as FastAPI and sse-starlette make it: a turn is cancelled when its client leaves; nothing is resumable.

GET, POST /events             one turn; parameters in the query or a JSON body:
    events=20  pace_ms=5      how many events, and the time between them
    shape=plain               `data: {"turn", "i", "text"}`, i from 1; or `named` (`event: token`), `ids` (own ids),
                              `multiline` (the JSON over several data lines), `openai` (chat completion chunks, [DONE])
    sep=lf                    line ends: lf, crlf or cr
    pad=0                     bytes of filler in each event
    ping=0                    seconds between comment blocks; 0 for none
    fail_after=0              break off after so many events; 0 for never
POST /v1/chat/completions     the same with shape=openai
GET /stats                    {"started", "finished", "aborted", "last_event_ids": []}

Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.
"""

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

app = FastAPI()
stats = {"started": 0, "finished": 0, "aborted": 0, "last_event_ids": []}
SEPARATORS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}
A_DAY = 86400


class Turn(BaseModel):
    """The parameters of one turn."""

    events: int = 20
    pace_ms: float = 5
    shape: str = "plain"
    sep: str = "lf"
    pad: int = 0
    ping: int = 0
    fail_after: int = 0


def event(turn: Turn, number: int, i: int) -> ServerSentEvent:
    """The i-th event of a turn in the shape asked for."""
    token = {"turn": number, "i": i, "text": f"t{i} "} | ({"pad": "x" * turn.pad} if turn.pad else {})
    data, sep = json.dumps(token), SEPARATORS[turn.sep]
    match turn.shape:
        case "named":
            return ServerSentEvent(data, event="token", sep=sep)
        case "ids":
            return ServerSentEvent(data, id=str(i), sep=sep)
        case "multiline":
            return ServerSentEvent(json.dumps(token, indent=1), sep=sep)
        case "openai":
            choice = {"index": 0, "delta": {"content": token["text"]}, "finish_reason": None}
            chunk = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 0, "model": "test"}
            return ServerSentEvent(json.dumps(chunk | {"choices": [choice]}), sep=sep)
        case _:
            return ServerSentEvent(data, sep=sep)


async def generate(turn: Turn, number: int) -> AsyncIterator[ServerSentEvent]:
    """The events of a turn. Cancellation is raised at an await, when the client has left."""
    outcome = "aborted"
    try:
        for i in range(1, turn.events + 1):
            yield event(turn, number, i)
            if i == turn.fail_after:
                raise RuntimeError("the model is gone")
            await asyncio.sleep(turn.pace_ms / 1000)
        if turn.shape == "openai":
            yield ServerSentEvent("[DONE]", sep=SEPARATORS[turn.sep])
        outcome = "finished"
    finally:
        stats[outcome] += 1


async def answer(request: Request, **fixed: str) -> EventSourceResponse:
    body = json.loads(await request.body() or b"{}")
    turn = Turn.model_validate(dict(request.query_params) | body | fixed)
    stats["started"] += 1
    if last := request.headers.get("last-event-id"):
        stats["last_event_ids"].append(last)
    events = generate(turn, stats["started"])
    return EventSourceResponse(events, sep=SEPARATORS[turn.sep], ping=turn.ping or A_DAY)


@app.api_route("/events", methods=["GET", "POST"])
async def events(request: Request) -> EventSourceResponse:
    return await answer(request)


@app.post("/v1/chat/completions")
async def chat_completions(request: Request) -> EventSourceResponse:
    return await answer(request, shape="openai")


@app.get("/stats")
async def show_stats() -> dict:
    return stats


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True

    threading.Thread(target=end_with_stdin, daemon=True).start()
    print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
