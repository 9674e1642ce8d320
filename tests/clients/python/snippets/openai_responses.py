from openai import APIConnectionError, OpenAI

client = OpenAI()  # OPENAI_BASE_URL is Holdover's address, with /v1


def events(**request):
    """The events of a response, in spite of lost connections."""
    stream = client.responses.create(**request, stream=True)
    id = last = None
    while True:
        try:
            for event in stream:
                if event.type == "response.created":
                    id = event.response.id
                last = event.sequence_number
                yield event
            return
        except APIConnectionError:
            if id is None:
                raise
            stream = client.responses.retrieve(id, stream=True, starting_after=last)


for event in events(model="gpt-5", input="Hello"):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
