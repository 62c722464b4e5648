// One stream, drawn: its text, its block, its figures. Text enters as textContent only.

import { Figures, number, seconds } from "./figures.js";
import { visible, visibleToken } from "./visible.js";

const NAMES = { diffusion: "Diffusion", ar: "AR, token by token", lossless: "Lossless" };

export class Pane {
  constructor(mode) {
    this.element = document.getElementById("pane").content.cloneNode(true).firstElementChild;
    const title = this.element.querySelector("h2");
    title.textContent = NAMES[mode];
    title.id = `pane-${mode}`;
    this.element.dataset.mode = mode;
    this.element.setAttribute("aria-labelledby", title.id);
    this.text = this.element.querySelector(".text");
    this.block = this.element.querySelector(".block");
    this.block.hidden = mode !== "diffusion";
    this.error = this.element.querySelector(".error");
    this.figures = new Figures(this.element.querySelector(".figures"));
  }

  show(filling) {
    this.text.replaceChildren(span("", filling.text), span("fresh", filling.fresh));
    this.block.replaceChildren(...filling.cells.map(drawCell));
    this.block.setAttribute("aria-label", visible(filling.describe()));
    this.figures.show(figuresOf(filling));
  }

  fail(message) {
    this.error.textContent = visible(message);
    this.error.hidden = false;
  }
}

function span(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = visible(text);
  return made;
}

function drawCell({ token, state }) {
  const made = document.createElement("span");
  made.className = `cell ${state}`;
  made.textContent = token === null ? "·" : visibleToken(token);
  return made;
}

function figuresOf(filling) {
  const counts = filling.end?.usage.ttc;
  const perNfe = filling.end?.tokens_per_nfe;
  const time = filling.lastMs;
  return [
    ["Tokens", number(filling.tokens)],
    ["Time", seconds(time)],
    ["To the first block", seconds(filling.firstBlockMs)],
    ["Tokens per second", time ? number((filling.tokens / time) * 1000, 1) : "–"],
    ["NFE", counts ? number(counts.nfe) : "–"],
    ["Tokens per NFE", number(perNfe)],
    ["Context calls", counts ? number(counts.context_calls) : "–"],
    ...(filling.mode === "diffusion" ? [["Steps of each block", filling.stepsPerBlock.join(", ") || "–"]] : []),
    ["Ended", filling.ended ?? "–"],
  ];
}
