/** The data of each event of a streamed answer, in spite of lost connections. */
export async function* events(url, request) {
  let response = await fetch(url, request);
  const resume = response.headers.get('holdover-resume');
  for (let seen = 0; response.status !== 204; ) {
    if (!response.ok) throw new Error(`status ${response.status}`);
    try {
      for await (const data of blocks(response.body)) {
        seen += 1;
        yield data;
      }
      return;
    } catch (error) {
      if (!resume) throw error;
      response = await again(new URL(`${resume}?after=${seen}`, url), request.headers);
    }
  }
}

/** The data of each whole event in a stream of bytes. */
async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = '', read = await reader.read(); !read.done; read = await reader.read()) {
    const whole = (text + read.value).split(/\r?\n\r?\n/);
    text = whole.pop();
    for (const block of whole) {
      const data = block.match(/^data:.*$/gm)?.map((line) => line.slice('data:'.length).trim());
      if (data) yield data.join('\n');
    }
  }
}

/** Asks until there is an answer. */
async function again(url, headers) {
  for (let delay = 200; ; delay = Math.min(2 * delay, 5000)) {
    const response = await fetch(url, { headers }).catch(() => null);
    if (response && response.status < 500) return response;
    await new Promise((later) => setTimeout(later, delay));
  }
}
