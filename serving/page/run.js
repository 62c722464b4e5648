// One prompt through several panes at once, until all have ended or somebody cancels.

import { Filling } from "./filling.js";
import { askStream } from "./sse.js";

// Returns what became of each pane: "done", "cancelled", or the error. `paceMs` > 0 shows each event for so
// long; the figures stay those of the arrival.
export function runPanes(panes, body, headers, paceMs, signal) {
  return Promise.all(panes.map((pane) => runPane(pane, body, headers, paceMs, signal)));
}

async function runPane(pane, body, headers, paceMs, signal) {
  const mode = pane.element.dataset.mode;
  const filling = new Filling(mode, performance.now());
  pane.show(filling);
  try {
    const events = askStream(fieldsFor(mode, body), headers, signal);
    for await (const event of paceMs > 0 ? ahead(events) : events) {
      filling.take(event);
      pane.show(filling);
      if (paceMs > 0) await pause(paceMs, signal);
    }
    return "done";
  } catch (error) {
    if (error.name === "AbortError") {
      filling.cancelled = true;
      pane.show(filling);
      return "cancelled";
    }
    pane.fail(error.message);
    return error;
  }
}

// Threshold and steps are of the denoiser, which AR does not ask; lossless takes no steps.
function fieldsFor(mode, body) {
  const { threshold, steps, ...rest } = body;
  return mode === "diffusion" ? { ...body, mode } : { ...rest, mode };
}

// Read events as fast as they come and give them out as fast as they are taken.
async function* ahead(events) {
  const waiting = [];
  let wake = () => {};
  let ended = false;
  const reading = (async () => {
    try {
      for await (const event of events) {
        waiting.push(event);
        wake();
      }
    } finally {
      ended = true;
      wake();
    }
  })();
  reading.catch(() => {});
  for (;;) {
    if (waiting.length > 0) yield waiting.shift();
    else if (ended) return void (await reading);
    else await new Promise((resolve) => (wake = resolve));
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
