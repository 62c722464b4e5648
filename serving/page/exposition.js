// Prometheus' text format → samples, and quantiles of its histograms.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function parseExposition(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (found === null) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map((m) => [m[1], m[2]]));
    samples.push({ name: found[1], labels, value: Number(found[3].replace("+Inf", "Infinity")) });
  }
  return samples;
}

// The sum over all labels; null where there is no such metric.
export function total(samples, name) {
  const values = samples.filter((one) => one.name === name).map((one) => one.value);
  return values.length === 0 ? null : values.reduce((a, b) => a + b, 0);
}

// As histogram_quantile does: linear within the bucket that holds it. NaN while nothing was observed.
export function quantile(samples, name, share) {
  const buckets = samples
    .filter((one) => one.name === `${name}_bucket`)
    .map(({ labels, value }) => ({ most: Number(labels.le.replace("+Inf", "Infinity")), count: value }))
    .sort((a, b) => a.most - b.most);
  const all = buckets.at(-1)?.count ?? 0;
  if (all === 0) return NaN;
  const wanted = share * all;
  const at = buckets.findIndex(({ count }) => count >= wanted);
  const low = at === 0 ? { most: 0, count: 0 } : buckets[at - 1];
  if (buckets[at].most === Infinity) return low.most;
  const within = (wanted - low.count) / (buckets[at].count - low.count);
  return low.most + (buckets[at].most - low.most) * within;
}
