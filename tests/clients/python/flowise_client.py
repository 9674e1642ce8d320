"""`flowise`: one streamed prediction. It never resumes."""

import json
from importlib.metadata import version

from flowise import Flowise, PredictionData
from report import Report, parser

options = parser()
options.add_argument("--chat", default="a-chat")
options = options.parse_args()
report = Report("flowise-python", version("flowise"), options)

data = PredictionData(chatflowId="a-flow", question="Hello", chatId=options.chat, streaming=True)
for chunk in Flowise(options.url, "test").create_prediction(data):
    event = json.loads(chunk)
    report.event(None, event["event"], json.dumps(event["data"]))
report.end("clean")
