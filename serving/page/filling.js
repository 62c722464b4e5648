// What a stream has said so far: the text that stays, the block that fills, the figures. Draws nothing.

export class Filling {
  constructor(mode, began) {
    this.mode = mode;
    this.began = began;
    this.text = "";
    this.fresh = "";
    this.cells = [];
    this.block = 0;
    this.step = 0;
    this.tokens = 0;
    this.stepsPerBlock = [];
    this.firstBlockMs = null;
    this.lastMs = null;
    this.end = null;
    this.cancelled = false;
  }

  take({ name, data, at }) {
    this.lastMs = at - this.began;
    if (name === "step") this.#step(data);
    if (name === "block") this.#block(data);
    if (name === "end") this.#end(data);
  }

  // A block after a denoise step; null is an open position.
  #step(data) {
    const before = data.block === this.block ? this.cells : [];
    this.cells = data.tokens.map((token, i) => cell(token, before[i]));
    this.block = data.block;
    this.step = data.step + 1;
  }

  // Tokens that stay. The step that decides a block's last position has no event of its own.
  #block(data) {
    this.firstBlockMs ??= this.lastMs;
    this.text += this.fresh;
    this.fresh = data.text;
    this.tokens += data.token_ids.length;
    if (this.mode === "diffusion") {
      this.stepsPerBlock.push(this.step + 1);
      this.cells = data.tokens.map((token, i) => cell(token, this.cells[i]));
      this.block = this.stepsPerBlock.length;
      this.step = 0;
    }
  }

  #end(data) {
    this.text += this.fresh;
    this.fresh = "";
    this.end = data;
    // Blocks that came faster than they were read are one event.
    if (this.mode === "diffusion") this.stepsPerBlock = data.nfe_per_block;
  }

  get ended() {
    return this.cancelled ? "cancelled" : this.end?.finish_reason;
  }

  get openCount() {
    return this.cells.filter((one) => one.state === "open").length;
  }

  // The block in words, for those who do not see it.
  describe() {
    if (this.ended !== undefined) return `Ended after ${this.tokens} tokens: ${this.ended}.`;
    if (this.mode !== "diffusion") return `${this.tokens} tokens written.`;
    if (this.cells.length === 0) return "No block is being filled.";
    const decided = this.cells.length - this.openCount;
    if (this.openCount === 0) return `Block ${this.block} is filled: ${decided} positions.`;
    const words = this.cells.map((one) => (one.state === "open" ? "open" : one.token)).join(", ");
    return `Block ${this.block + 1}, step ${this.step}: ${decided} of ${this.cells.length} decided: ${words}`;
  }
}

function cell(token, before) {
  if (token === null) return { token, state: "open" };
  const known = before !== undefined && before.state !== "open" && before.token === token;
  return { token, state: known ? "kept" : "fresh" };
}
