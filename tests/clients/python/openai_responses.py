"""`openai`: one streamed response, continued by its caller. The options are those of ../node/openai_responses.mjs."""

import json
from importlib.metadata import version
from urllib.parse import urlsplit

import openai
from report import Report, headers, parser

options = parser()
options.add_argument("--retries", type=int, default=2)
options.add_argument("--resume", action="store_true")
options.add_argument("--retrieve")
options.add_argument("--starting-after", type=int)
options.add_argument("--helper", action="store_true")
options.add_argument("--cancel-at", type=int)
options = options.parse_args()
report = Report("openai-python", version("openai"), options)

url = urlsplit(options.url)
client = openai.OpenAI(
    api_key="test",
    base_url=f"{url.scheme}://{url.netloc}{url.path.removesuffix('/responses')}",
    default_headers=headers(options),
    max_retries=options.retries,
)
id, last, seen = options.retrieve, options.starting_after, 0
body = {"model": "test", "input": "Hello"} | json.loads(options.body or "{}")


def cursor() -> dict:
    return {} if last is None else {"starting_after": last}


def cancel() -> None:
    print(json.dumps({"cancelled": client.responses.cancel(id).model_dump(mode="json")}), flush=True)


def read(stream) -> None:
    global id, last, seen
    report.open()
    for event in stream:
        if event.type == "response.created":
            id = event.response.id
        last = event.sequence_number
        report.event(None, event.type, event.model_dump_json(exclude_unset=True))
        seen += 1
        if seen == options.cancel_at:
            cancel()


if options.cancel_at == 0:
    cancel()
if options.helper:
    params = {"response_id": id} | cursor() if id else body
    with client.responses.stream(**params) as stream:
        read(stream)
        report.event(None, "final", stream.get_final_response().model_dump_json(exclude_unset=True))
    report.end("clean")
while True:
    try:
        if id is None:
            read(client.responses.create(stream=True, **body))
        else:
            read(client.responses.retrieve(id, stream=True, **cursor()))
        report.end("clean")
    except openai.APIConnectionError as error:
        if not options.resume or id is None:
            raise
        report.error(error)
