// A list of named figures: made once, then only their values change.

export class Figures {
  #values = new Map();

  constructor(list) {
    this.list = list;
  }

  // figures: [name, text] in order.
  show(figures) {
    for (const [name, value] of figures) {
      if (!this.#values.has(name)) this.#values.set(name, this.#add(name));
      const shown = this.#values.get(name);
      if (shown.textContent !== value) shown.textContent = value;
    }
  }

  #add(name) {
    const row = document.createElement("div");
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    row.append(term, value);
    this.list.append(row);
    return value;
  }
}

export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Number(value.toFixed(digits)).toString();
}

export function seconds(ms) {
  return ms === null || !Number.isFinite(ms) ? "–" : ms < 1000 ? `${number(ms, 0)} ms` : `${number(ms / 1000)} s`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  return value < 1 << 20 ? `${number(value / 1024, 1)} KiB` : `${number(value / (1 << 20), 1)} MiB`;
}
