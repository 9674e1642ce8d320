import json

from anthropic import Anthropic, AnthropicError, APIConnectionError, Stream
from httpx2 import TransportError

client = Anthropic()  # ANTHROPIC_BASE_URL is Holdover's address


def events(**request):
    """The events of a message, in spite of lost connections."""
    create = client.messages.with_streaming_response.create
    last = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with create(**request, stream=True, extra_headers=headers) as response:
                for event in Stream.raw_events(response.http_response):
                    last = event.id or last
                    if event.event == "error":
                        raise AnthropicError(event.data)
                    if event.event != "ping":
                        yield json.loads(event.data)
            return
        except (APIConnectionError, TransportError):
            if last is None:
                raise


messages = [{"role": "user", "content": "Hello"}]
for event in events(model="claude-sonnet-4-5", max_tokens=1000, messages=messages):
    if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
        print(event["delta"]["text"], end="", flush=True)
