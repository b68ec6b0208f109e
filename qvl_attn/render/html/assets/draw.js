// From cell values to coloured pixels, as overlay.py: values are interpolated before they are coloured.

/** The 256 colours of each colour map as pixels of a canvas. */
const TABLES = Object.fromEntries(
  Object.entries(DATA.tables).map(([name, text]) => {
    const rgb = bytesOf(text),
      pixels = new Uint32Array(256),
      bytes = new Uint8Array(pixels.buffer);
    for (let level = 0; level < 256; level++) bytes.set([...rgb.subarray(3 * level, 3 * level + 3), 255], 4 * level);
    return [name, pixels];
  }),
);

/** For each pixel along one side: the cell before it, the cell after it, and the weight of the second. */
function interpolation(pixels, cells, smooth) {
  const first = new Int32Array(pixels),
    second = new Int32Array(pixels),
    weight = new Float64Array(pixels);
  for (let i = 0; i < pixels; i++) {
    if (smooth) {
      const at = Math.min(Math.max(((i + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
      first[i] = Math.floor(at);
      weight[i] = at - first[i];
    } else {
      first[i] = Math.floor(((2 * i + 1) * cells) / (2 * pixels));
    }
    second[i] = Math.min(first[i] + 1, cells - 1);
  }
  return { first, second, weight };
}

/**
 * Paint (rows, columns) values on a canvas: 0 has the first of 256 colours, `high` and above the last.
 *
 * @type {(canvas: any, values: Float32Array, rows: number, columns: number, high: number, colormap: string,
 *   interp: string) => void}
 */
function paint(canvas, values, rows, columns, high, colormap, interp) {
  const { width, height } = canvas,
    context = canvas.getContext("2d");
  const image = context.createImageData(width, height),
    pixels = new Uint32Array(image.data.buffer);
  const table = TABLES[colormap],
    unit = 255 / high;
  const x = interpolation(width, columns, interp === "linear"),
    y = interpolation(height, rows, interp === "linear");
  const line = new Float64Array(columns);
  for (let v = 0; v < height; v++) {
    const above = y.first[v] * columns,
      below = y.second[v] * columns,
      down = y.weight[v];
    for (let c = 0; c < columns; c++) line[c] = (values[above + c] * (1 - down) + values[below + c] * down) * unit;
    for (let u = 0, at = v * width; u < width; u++, at++) {
      const level = line[x.first[u]] + (line[x.second[u]] - line[x.first[u]]) * x.weight[u];
      pixels[at] = table[level >= 255 ? 255 : level > 0 ? (level + 0.5) | 0 : 0];
    }
  }
  context.putImageData(image, 0, 0);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
