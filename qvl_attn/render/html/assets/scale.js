// The scale of a map: its bar, its end, and the ranks of its cells.

/** Paint a bar of all colours, low at the left. */
function paintBar(canvas, colormap) {
  const context = canvas.getContext("2d"),
    image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++)
    pixels[i] = TABLES[colormap][Math.round((255 * (i % canvas.width)) / (canvas.width - 1))];
  context.putImageData(image, 0, 0);
}

/** The end of a scale, as `heatmap.percentile_scale`: the 99.5th percentile; the largest value if that is 0; else 1. */
function scaleHigh(values) {
  const sorted = Float32Array.from(values).sort(),
    at = 0.995 * (sorted.length - 1),
    first = Math.floor(at);
  const after = sorted[Math.min(first + 1, sorted.length - 1)];
  return sorted[first] + (after - sorted[first]) * (at - first) || sorted[sorted.length - 1] || 1;
}

const RANKS = new WeakMap();

/** The cells in descending order, and the rank of each cell: 1 is the strongest, equal values have the same rank. */
function ranksOf(values) {
  if (!RANKS.has(values.buffer)) RANKS.set(values.buffer, new Map());
  const cached = RANKS.get(values.buffer),
    key = values.byteOffset;
  if (!cached.has(key)) {
    const order = Uint32Array.from(values.keys()).sort((a, b) => values[b] - values[a]),
      ranks = new Uint32Array(values.length);
    order.forEach(
      (cell, i) => (ranks[cell] = i && values[cell] === values[order[i - 1]] ? ranks[order[i - 1]] : i + 1),
    );
    cached.set(key, { order, ranks });
  }
  return cached.get(key);
}
