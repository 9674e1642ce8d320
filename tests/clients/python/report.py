"""What every driver shares: its command line, and the report it prints as its last line.

The contract is that of ../node/report.mjs, where it is written down.
"""

import argparse
import json
import os
import sys
import threading


def parser() -> argparse.ArgumentParser:
    """The options every driver takes; a driver adds its own."""
    options = argparse.ArgumentParser()
    options.add_argument("--url", required=True)
    options.add_argument("--method", default="GET")
    options.add_argument("--body")
    options.add_argument("--header", action="append", default=[])
    options.add_argument("--expect-events", type=float, default=float("inf"))
    options.add_argument("--timeout", type=int, default=30000)
    options.add_argument("--live", action="store_true")
    return options


def headers(options: argparse.Namespace) -> dict[str, str]:
    """The `--header` lines by name."""
    return dict(line.split(": ", 1) for line in options.header)


class Report:
    """Collects what a client sees; `end` prints it and exits the process."""

    def __init__(self, client: str, version: str, options: argparse.Namespace) -> None:
        self._seen: dict = {"client": client, "version": version, "events": [], "opens": 0, "errors": []}
        self._limit = options.expect_events
        self._live = options.live
        self._ending = threading.Lock()
        sys.excepthook = lambda _kind, error, _trace: self.fail(error)  # what the library raises at its caller
        clock = threading.Timer(options.timeout / 1000, self.end, ["timeout"])
        clock.daemon = True
        clock.start()

    def open(self) -> None:
        self._seen["opens"] += 1

    def event(self, id: str | None, type: str, data: str) -> None:
        event = {"id": id or None, "type": type, "data": data}
        self._seen["events"].append(event)
        if self._live:
            print(json.dumps({"event": event}), flush=True)
        if len(self._seen["events"]) > self._limit:
            self.fail(f"more than {self._limit:.0f} events")

    def error(self, error: object) -> None:
        self._seen["errors"].append(
            f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
        )

    def fail(self, error: object) -> None:
        self.error(error)
        self.end("error")

    def end(self, how: str) -> None:
        self._ending.acquire()  # and never released: whoever ends first has the last word
        print(json.dumps(self._seen | {"ended": how}), flush=True)
        os._exit(0)
