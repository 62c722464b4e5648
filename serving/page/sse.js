// Ask the native stream and yield its events as they come: {name, data, at}, `at` in ms. "[DONE]" ends it; an end
// without it is an error, since a text that broke off must not look whole.

export class ServiceError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function* askStream(body, headers, signal) {
  const answer = await fetch("ttc/v1/stream", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
  if (!answer.ok) throw await serviceError(answer);
  for await (const { name, text } of readFrames(answer.body)) {
    if (text === "[DONE]") return;
    const data = JSON.parse(text);
    if (name === "error") throw new ServiceError(data.error.message);
    yield { name, data, at: performance.now() };
  }
  throw new ServiceError("The stream broke off before its end; the text is not whole.");
}

export async function serviceError(answer) {
  let says = answer.statusText || "no reason given";
  try {
    says = (await answer.json()).error.message;
  } catch {
    // Not an answer of ours, of a proxy perhaps: the status must do.
  }
  const wait = answer.headers.get("retry-after");
  const again = wait === null ? "" : ` Try again in ${wait} s.`;
  return new ServiceError(`${answer.status}: ${says}${again}`, answer.status);
}

// Frames end with an empty line; comments are pings.
export async function* readFrames(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      let name = "";
      let text = null;
      for (const line of frame.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) text = line.slice(6);
      }
      if (text !== null) yield { name, text };
    }
  }
}
