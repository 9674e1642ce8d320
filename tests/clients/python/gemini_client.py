"""`google-genai`: one streamed answer. It never resumes."""

import json
from importlib.metadata import version

from google import genai
from report import Report, headers, parser

options = parser().parse_args()
report = Report("google-genai", version("google-genai"), options)

client = genai.Client(api_key="test", http_options={"base_url": options.url, "headers": headers(options)})
contents = json.loads(options.body)["contents"] if options.body else "Hello"
for chunk in client.models.generate_content_stream(model="gemini-2.5-flash", contents=contents):
    seen = chunk.model_dump(exclude_none=True, exclude={"sdk_http_response"}, mode="json", by_alias=True)
    report.event(None, "chunk", json.dumps(seen))
report.end("clean")
