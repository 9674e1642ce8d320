"""`a2a-sdk`: one streamed message over JSON-RPC. The library does not come back by itself; this caller subscribes to the task
again, once for each error, and starts afresh with what it is then told."""

import json
from importlib.metadata import version

import anyio
import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers.proto_helpers import new_text_message
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, Role, SendMessageRequest, SubscribeToTaskRequest
from google.protobuf.json_format import MessageToDict
from report import Report, headers, parser

options = parser().parse_args()
report = Report("a2a", version("a2a-sdk"), options)


async def main() -> None:
    interface = AgentInterface(url=options.url, protocol_binding="JSONRPC", protocol_version="1.0")
    card = AgentCard(name="test", capabilities=AgentCapabilities(streaming=True), supported_interfaces=[interface])
    http = httpx.AsyncClient(headers=headers(options), timeout=None)
    client = ClientFactory(ClientConfig(httpx_client=http, streaming=True)).create(card)
    task = None
    stream = client.send_message(SendMessageRequest(message=new_text_message("Hello", role=Role.ROLE_USER)))
    while stream is not None:
        try:
            async for update in stream:
                kind = update.WhichOneof("payload")
                value = getattr(update, kind)
                task = task or (value.id if kind == "task" else value.task_id)
                report.event(None, kind, json.dumps(MessageToDict(value), sort_keys=True))
            stream = None
        except (httpx.HTTPError, A2AClientError) as error:
            report.error(error)
            if task is None:
                raise
            print(json.dumps({"lost": task}), flush=True)
            stream = client.subscribe(SubscribeToTaskRequest(id=task))
    report.end("clean")


anyio.run(main)
