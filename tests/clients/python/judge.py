"""Says what `httpx-sse` makes of a byte stream, for comparing parsers.

Input: JSON lines {"bytes": "<base64>"}. Output: for each, in order, {"events": [{"id", "type", "data", "retry"}]}.

Where httpx-sse differs from the standard: it keeps a byte order mark as text, and yields an event, with empty data, at
every blank line behind an `event:`, an `id:` (also an earlier one) or a `retry:`.
"""

import base64
import json
import sys

import httpx
from httpx_sse import EventSource

for line in sys.stdin:
    if line.strip():
        stream = base64.b64decode(json.loads(line)["bytes"])
        response = httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=stream)
        events = [
            {"id": event.id, "type": event.event, "data": event.data, "retry": event.retry}
            for event in EventSource(response).iter_sse()
        ]
        print(json.dumps({"events": events}))
