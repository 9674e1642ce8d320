"""`openai`: one streamed chat completion. The library sends a start again when it lost it before the response headers
(`--retries`, 2 by default), and never resumes a stream."""

import json
from importlib.metadata import version
from urllib.parse import parse_qsl, urlsplit

import openai
from report import Report, headers, parser

options = parser()
options.add_argument("--retries", type=int, default=2)
options = options.parse_args()
report = Report("openai-python", version("openai"), options)

url = urlsplit(options.url)
client = openai.OpenAI(
    api_key="test",
    base_url=f"{url.scheme}://{url.netloc}{url.path.removesuffix('/chat/completions')}",
    default_query=dict(parse_qsl(url.query)),
    default_headers=headers(options),
    max_retries=options.retries,
)
body = json.loads(options.body or "{}")
model, messages = body.pop("model", "test"), body.pop("messages", [{"role": "user", "content": "Hello"}])
stream = client.chat.completions.create(model=model, messages=messages, stream=True, extra_body=body)
report.open()
for chunk in stream:
    report.event(None, "chunk", chunk.model_dump_json(exclude_unset=True))
report.end("clean")
