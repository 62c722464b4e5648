// The page's main path: read the form, run the panes, say how it ended.

import { Dashboard } from "./dashboard.js";
import { EXAMPLES } from "./examples.js";
import { keepKey, keyHeaders, keptKey } from "./key.js";
import { Pane } from "./pane.js";
import { runPanes } from "./run.js";
import { followScheme } from "./scheme.js";
import { serviceError } from "./sse.js";
import { visible } from "./visible.js";

const at = (id) => document.getElementById(id);
const NUMBERS = ["max_tokens", "threshold", "steps", "temperature", "seed"];
let running = null;

async function write(event) {
  event.preventDefault();
  if (running !== null) return;
  running = new AbortController();
  at("cancel").setAttribute("aria-disabled", "false");
  at("write").setAttribute("aria-disabled", "true");
  const modes = ["diffusion", at("beside").value].filter((mode) => mode !== "");
  const panes = modes.map((mode) => new Pane(mode));
  at("panes").replaceChildren(...panes.map((pane) => pane.element));
  say("Writing.");
  const ends = await runPanes(panes, fields(), keyHeaders(), Number(at("pace").value), running.signal);
  running = null;
  at("cancel").setAttribute("aria-disabled", "true");
  at("write").setAttribute("aria-disabled", "false");
  if (ends.some((end) => end.status === 401)) askForKey();
  say(panes.map((pane, i) => `${pane.element.querySelector("h2").textContent}: ${outcome(pane, ends[i])}`).join(" "));
  dashboard.read();
}

function outcome(pane, end) {
  if (end === "cancelled") return "cancelled.";
  return end === "done" ? pane.text.textContent : `failed. ${visible(end.message)}`;
}

function fields() {
  const found = { prompt: at("prompt").value };
  for (const name of NUMBERS) {
    if (at(name).value !== "") found[name] = at(name).valueAsNumber;
  }
  return found;
}

function cancel() {
  running?.abort();
}

function say(text) {
  at("status").textContent = text;
}

function askForKey() {
  at("key-row").hidden = false;
  at("key").focus();
}

async function nameModel() {
  const answer = await fetch("v1/metadata", { headers: keyHeaders() });
  if (answer.status === 401) askForKey();
  if (!answer.ok) throw await serviceError(answer);
  const { modelInfo, backend, device, version } = await answer.json();
  at("model").textContent = visible(`${modelInfo[0].shortName} · ${backend} on ${device} · ttc ${version}`);
}

function showModel() {
  nameModel().catch((error) => {
    at("model").textContent = visible(error.message);
    if (error.status === 503) setTimeout(showModel, 2000);
  });
}

for (const [name, prompt] of EXAMPLES) at("example").add(new Option(name, prompt));
at("prompt").value = EXAMPLES[0][1];
at("example").addEventListener("change", () => (at("prompt").value = at("example").value));
at("ask").addEventListener("submit", write);
at("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
  if (event.key === "Enter" && event.ctrlKey) at("ask").requestSubmit();
});
at("key").value = keptKey();
at("key").addEventListener("input", () => keepKey(at("key").value));
at("key").addEventListener("change", () => {
  showModel();
  dashboard.read();
});
followScheme(at("scheme"));
showModel();
const locked = () => !at("key-row").hidden && keptKey() === "";
const following = () => at("follow").checked && !locked();
const dashboard = new Dashboard(at("service"), at("metrics-error"), following, keyHeaders);
dashboard.live();
