"""`dify-client`: one streamed chat message. The library gives a response of `requests`, read line by line as everybody does."""

import json
from importlib.metadata import version

from dify_client import ChatClient
from report import Report, parser

options = parser()
options.add_argument("--conversation")
options = options.parse_args()
report = Report("dify-client-python", version("dify-client"), options)

client = ChatClient("test")
client.base_url = options.url
answer = client.create_chat_message({}, "Hello", "a-user", "streaming", options.conversation)
answer.raise_for_status()
for line in answer.iter_lines(decode_unicode=True):
    if line.startswith("data: "):
        event = json.loads(line.removeprefix("data: "))
        report.event(None, event["event"], json.dumps(event, ensure_ascii=False))
report.end("clean")
