// The service's metrics, read every two seconds while the page is looked at.

import { parseExposition, quantile, total } from "./exposition.js";
import { Figures, bytes, number, seconds } from "./figures.js";
import { serviceError } from "./sse.js";
import { visible } from "./visible.js";

const EVERY_MS = 2000;
const WINDOW_MS = 30_000;

export class Dashboard {
  #seen = [];

  constructor(list, error, following, headers) {
    this.figures = new Figures(list);
    this.error = error;
    this.following = following;
    this.headers = headers;
  }

  async live() {
    for (;;) {
      if (this.following() && document.visibilityState === "visible") await this.read();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  }

  async read() {
    try {
      const answer = await fetch("metrics", { headers: this.headers() });
      if (!answer.ok) throw await serviceError(answer);
      this.figures.show(this.#figures(parseExposition(await answer.text())));
      this.error.hidden = true;
    } catch (error) {
      this.error.textContent = `The metrics cannot be read. ${visible(error.message)}`;
      this.error.hidden = false;
    }
  }

  #figures(samples) {
    const of = (name) => total(samples, `ttc_${name}`);
    const p = (name, share) => seconds(quantile(samples, `ttc_${name}`, share) * 1000);
    const ratio = (above, below) => (of(below) ? number(of(above) / of(below)) : "–");
    return [
      ["Takes work", of("engine_up") === 1 ? "yes" : "no"],
      ["Rows running", number(of("requests_running"))],
      ["Rows waiting", number(of("requests_waiting"))],
      ["Tokens per second", number(this.#perSecond(of("generation_tokens_total")), 1)],
      ["Tokens per NFE", ratio("tokens_per_nfe_sum", "tokens_per_nfe_count")],
      ["Steps per block", ratio("steps_per_block_sum", "steps_per_block_count")],
      ["Rows per denoiser call", ratio("denoiser_rows_per_call_sum", "denoiser_rows_per_call_count")],
      ["First block, p50", p("time_to_first_block_seconds", 0.5)],
      ["First block, p95", p("time_to_first_block_seconds", 0.95)],
      ["Prefix cache hits", hits(of("prefix_cache_hits_total"), of("prefix_cache_queries_total"))],
      ["Prefix cache", bytes(of("prefix_cache_bytes") ?? NaN)],
      ["State", bytes(of("state_bytes") ?? NaN)],
    ];
  }

  // Over the window; a counter that fell means that the service began anew.
  #perSecond(tokens) {
    const now = performance.now();
    if (this.#seen.length > 0 && tokens < this.#seen.at(-1).tokens) this.#seen = [];
    this.#seen.push({ now, tokens });
    while (now - this.#seen[0].now > WINDOW_MS) this.#seen.shift();
    const first = this.#seen[0];
    return now > first.now ? ((tokens - first.tokens) / (now - first.now)) * 1000 : NaN;
  }
}

function hits(found, asked) {
  return asked === null ? "no cache" : `${number(found)} of ${number(asked)}`;
}
