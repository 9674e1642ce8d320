// Nothing here knows of the shim.
export async function ask(url, prompt, onData, signal) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt }),
    signal,
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
  let text = '';
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    const events = text.split('\n\n');
    text = events.pop();
    for (const event of events) onData(event.split('\n').find((line) => line.startsWith('data: ')).slice(6));
  }
}
