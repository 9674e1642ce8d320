import os
import time

import httpx
from httpx_sse import connect_sse


def events(client, method, url, **request):
    """The events of an answer, in spite of lost connections."""
    last = ""
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with connect_sse(client, method, url, headers=headers, **request) as source:
                if source.response.status_code == 204:
                    return  # nothing left
                source.response.raise_for_status()
                for event in source.iter_sse():
                    last = event.id
                    yield event
            return
        except httpx.TransportError:
            time.sleep(0.2)


with httpx.Client(base_url=os.environ["CHAT_URL"], timeout=None) as client:
    for event in events(client, "POST", "/chat", json={"prompt": "Hello"}):
        print(event.data, flush=True)
