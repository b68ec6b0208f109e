// State of the page; the values, scales and descriptions of what a panel shows.

const state = {
  panels: [],
  active: 0,
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  scale: "own",
  frame: 0,
  cell: null, // {panel, index} of the pointed cell
  selected: null, // {panel, index} of the clicked cell
};

const newPanel = (result) => ({ result, map: DATA.results[result].headline, source: 0, row: 0, head: null });
const resultOf = (panel) => DATA.results[panel.result];
const mapOf = (panel) => resultOf(panel).maps[panel.map];
const cellsOf = (medium) => medium.grid[0] * medium.grid[1] * medium.grid[2];
const totalOf = (result) => sum(result.media.map(cellsOf));
const active = () => state.panels[state.active];

/** The entry of what a panel shows: block and row of its values, its mass, and the ends of its scales. */
function entryOf(panel) {
  const map = mapOf(panel);
  if (panel.head) {
    const [layer, head] = panel.head,
      heads = map.heads;
    return {
      block: heads.blocks[layer],
      row: head,
      mass: heads.mass[layer][head],
      high: heads.high[layer][head],
      shared: heads.shared,
    };
  }
  const source = map.sources[panel.source];
  const coarse = { block: map.coarse, row: source.coarse_at + panel.row };
  return {
    block: source.block,
    row: panel.row,
    coarse,
    mass: source.mass[panel.row],
    high: source.high[panel.row],
    shared: map.shared[panel.row],
  };
}

/** The values of all cells, and whether they are fine; until then coarse means stand in, except for a head. */
function valuesOf(panel) {
  const entry = entryOf(panel),
    values = rowOf(entry.block, entry.row);
  if (values) return { values, fine: true };
  if (!entry.coarse) return { values: new Float32Array(0), fine: false };
  return { values: spread(rowOf(entry.coarse.block, entry.coarse.row), resultOf(panel)), fine: false };
}

/** Give each cell the coarse mean of its square. */
function spread(coarse, result) {
  const values = new Float32Array(totalOf(result)),
    side = DATA.cells_a_side;
  let at = 0,
    start = 0;
  for (const {
    grid: [steps, rows, columns],
  } of result.media) {
    const coarseColumns = Math.ceil(columns / side),
      coarseCells = Math.ceil(rows / side) * coarseColumns;
    for (let step = 0; step < steps; step++, start += coarseCells) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++)
          values[at++] = coarse[start + Math.floor(row / side) * coarseColumns + Math.floor(column / side)];
      }
    }
  }
  return values;
}

/** Picture, step, row and column of a cell, and its xyxy box in pixels of the picture. */
function positionOf(result, index) {
  for (const [number, medium] of result.media.entries()) {
    const [, rows, columns] = medium.grid;
    if (index < cellsOf(medium)) {
      const row = Math.floor(index / columns) % rows,
        column = index % columns;
      const box = [medium.xs[column], medium.ys[row], medium.xs[column + 1], medium.ys[row + 1]];
      return { number, step: Math.floor(index / (rows * columns)), row, column, box };
    }
    index -= cellsOf(medium);
  }
  return null;
}

/** Index of the first visible cell of a picture; for a clip, of the current frame's step. */
function startOf(result, number) {
  const before = sum(result.media.slice(0, number).map(cellsOf)),
    [, rows, columns] = result.media[number].grid;
  return before + stepNow(result) * rows * columns;
}

const stepNow = (result) => (result.clip ? result.clip.step_of[frameNow(result)] : 0);
const frameNow = (result) => Math.min(state.frame, result.clip.frames.length - 1);

/** The end of a panel's scale. Panels whose values are of one kind can share a scale. */
function highOf(panel, values) {
  if (state.scale === "shared") {
    const sameKind = state.panels.filter((other) => mapOf(other).name === mapOf(panel).name);
    return Math.max(...sameKind.map((other) => entryOf(other).shared));
  }
  return scaledByFrame(panel) ? scaleHigh(scaledCells(panel, values)) : entryOf(panel).high;
}

const scaledByFrame = (panel) => state.scale === "frame" && Boolean(resultOf(panel).clip);

/** The cells that determine a panel's scale: all, or those of the current frame. */
function scaledCells(panel, values) {
  if (!scaledByFrame(panel)) return values;
  const result = resultOf(panel),
    start = startOf(result, 0),
    [, rows, columns] = result.media[0].grid;
  return values.subarray(start, start + rows * columns);
}

/** Whether two panels, by number, have the same pictures and cells, so that a cell is marked in both. */
function sameCells(first, second) {
  const layoutOf = (number) => {
    const { media, clip } = resultOf(state.panels[number]);
    return JSON.stringify([media.map((medium) => [medium.picture, medium.grid]), clip?.frames]);
  };
  return first === second || (Boolean(state.panels[first]) && layoutOf(first) === layoutOf(second));
}

/** Describe what a panel shows. */
function describe(panel) {
  const result = resultOf(panel),
    map = mapOf(panel),
    source = map.sources[panel.source];
  if (panel.head) {
    const [layer, head] = panel.head;
    return `${t("head_of", map.heads.layers[layer], map.heads.numbers[head])} · ${describeQuery(result.rows[0])}`;
  }
  const query = describeQuery(result.rows[panel.row]);
  if (map.name !== "attention") {
    const label = view.language === "en" ? map.layer_label : t("layer");
    const sourceLabel = source.id === "layer" ? `${label} ${source.layers[0]}` : map.caption;
    return `${t("method", map.name)} · ${sourceLabel}${map.follows_query ? ` · ${query}` : ""}`;
  }
  const heads = source.heads === "all" ? t("mean_heads", result.head_count) : t("heads_named", source.heads);
  return `${layersName(source.layers)} ${t("of_layers", result.layer_count - 1)} · ${query} · ${heads}`;
}

const layersName = (layers) => t(layers.length === 1 ? "layer_of" : "layers_of", ranges(layers));

/** Numbers as ranges: `[0, 1, 2, 5]` becomes `0-2,5`. */
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const last = runs[runs.length - 1];
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

/** Wrap a text in marks that isolate its writing direction. */
const isolate = (text) => `\u2068${text}\u2069`;

/** Describe the query of a row. */
function describeQuery(row) {
  const tokens = t(row.tokens === 1 ? "tokens_1" : "tokens_n", row.tokens);
  return t(`t_${row.kind}`, ...(row.text ? [row.text] : []), tokens);
}

/** Label of a source of a map in the list of choices. */
function sourceName(result, number, source) {
  const layers = source.layers.length === result.layer_count ? t("all_layers") : layersName(source.layers);
  if (source.id === "all") return layers;
  if (number !== result.headline) return number && !source.layers.length ? t("whole") : layers;
  return source.layers.length ? `${t("headline")} (${ranges(source.layers)})` : t("headline");
}

/** Share of a panel's attention on the picture; null if its values are not attention. */
function shareOf(panel) {
  const map = mapOf(panel);
  if (map.is_attention) return entryOf(panel).mass;
  return panel.source === 0 ? map.share : null;
}

/** Describe the current frame of a clip. */
function describeFrame(result) {
  const { times_s, step_of } = result.clip,
    frame = frameNow(result);
  return t(
    "frame_told",
    times_s[frame].toFixed(2),
    frame + 1,
    times_s.length,
    step_of[frame] + 1,
    result.media[0].grid[0],
  );
}
