"""An A2A agent as the official SDK makes it: versions 1.0 and 0.3 over JSON-RPC at /a2a, 1.0 over REST below /rest.

GET /allow?steps=N    the agent goes on to step N of the 12 that a task has; past the last one it completes the task
GET /stats            {"started", "finished", "subscribed"}: runs of the agent, and subscriptions that came here

Prints `listening 127.0.0.1:PORT`; ends on SIGTERM or when its standard input does.
"""

import os
import socket
import threading

import anyio
import uvicorn
from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

STEPS = 12
stats = {"started": 0, "finished": 0, "subscribed": 0}
allowed = 0
changed = anyio.Event()


class Agent(AgentExecutor):
    """Writes an artifact word by word."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        stats["started"] += 1
        task = new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        for step in range(1, STEPS + 1):
            await permission(step)
            part = new_text_part(f"step {step}")
            await updater.add_artifact([part], artifact_id="answer", append=step > 1, last_chunk=step == STEPS)
        await permission(STEPS + 1)
        await updater.complete()
        stats["finished"] += 1

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


async def permission(step: int) -> None:
    while allowed < step:
        await changed.wait()


async def allow(request: Request) -> Response:
    global allowed, changed
    allowed = int(request.query_params["steps"])
    changed.set()
    changed = anyio.Event()
    return JSONResponse(None)


async def show_stats(_: Request) -> Response:
    return JSONResponse(stats)


card = AgentCard(
    name="test",
    description="Counts",
    version="1",
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    supported_interfaces=[AgentInterface(url="http://127.0.0.1/a2a", protocol_binding="JSONRPC", protocol_version="1.0")],
)
handler = DefaultRequestHandler(Agent(), InMemoryTaskStore(), card)
routes = create_jsonrpc_routes(handler, "/a2a", enable_v0_3_compat=True) + create_rest_routes(handler, path_prefix="/rest")
app = Starlette(routes=[Route("/allow", allow), Route("/stats", show_stats), *routes])


async def counted(scope, receive, send):
    """Counts subscriptions."""
    if scope["type"] == "http" and scope["method"] == "POST":
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        subscribes = b"tasks/resubscribe" in body or b"SubscribeToTask" in body or scope["path"].endswith(":subscribe")
        stats["subscribed"] += subscribes
        given = False

        async def again():
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await app(scope, again, send)
    return await app(scope, receive, send)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    serving = uvicorn.Server(uvicorn.Config(counted, log_level="critical", timeout_graceful_shutdown=1))

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        serving.should_exit = True

    threading.Thread(target=end_with_stdin, daemon=True).start()
    print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    serving.run(sockets=[listener])


if __name__ == "__main__":
    main()
