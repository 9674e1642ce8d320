"""`httpx-sse`: it parses, and its caller reconnects with the last id after a read error, as its README shows."""

import time
from importlib.metadata import version

import httpx
from httpx_sse import connect_sse
from report import Report, headers, parser

options = parser().parse_args()
report = Report("httpx-sse", version("httpx-sse"), options)
last_id, delay = "", 0.0

with httpx.Client(timeout=None) as client:
    while True:
        time.sleep(delay)
        resume = {"Last-Event-ID": last_id} if last_id else {}
        if options.body is not None:
            resume["Content-Type"] = "application/json"
        try:
            with connect_sse(
                client, options.method, options.url, content=options.body, headers=headers(options) | resume
            ) as source:
                if source.response.status_code != 200:
                    report.error(f"{source.response.status_code}")
                    report.end("closed" if source.response.status_code == 204 else "error")
                report.open()
                for event in source.iter_sse():
                    report.event(event.id, event.event, event.data)
                    last_id = event.id
                    delay = 0.0 if event.retry is None else event.retry / 1000
            report.end("clean")
        except httpx.TransportError as error:
            report.error(error)
            delay = max(delay, 0.1)
