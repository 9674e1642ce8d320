"""`anthropic`: one streamed message. The options are those of ../node/anthropic.mjs."""

import json
from importlib.metadata import version
from urllib.parse import urlsplit

import anthropic
from report import Report, headers, parser

options = parser()
options.add_argument("--retries", type=int, default=2)
options.add_argument("--helper", action="store_true")
options = options.parse_args()
report = Report("anthropic-python", version("anthropic"), options)

url = urlsplit(options.url)
client = anthropic.Anthropic(
    api_key="test",
    base_url=f"{url.scheme}://{url.netloc}{url.path.removesuffix('/v1/messages')}",
    default_headers=headers(options),
    max_retries=options.retries,
)
body = {"model": "test", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
body |= json.loads(options.body or "{}")


def read(stream) -> None:
    report.open()
    for event in stream:
        report.event(None, event.type, event.model_dump_json(exclude_unset=True))


if options.helper:
    with client.messages.stream(**body) as stream:
        read(stream)
        report.event(None, "final", stream.get_final_message().model_dump_json(exclude_unset=True))
else:
    read(client.messages.create(stream=True, **body))
report.end("clean")
