// What is looked at: the state of the page, where the numbers of what a panel shows are, and what it is called.

const state = {
  panels: [],
  active: 0,
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  scale: "own",
  frame: 0,
  cell: null, // {panel, index}: pointed at
  kept: null, // the same, clicked
};

const newPanel = (result) => ({ result, map: DATA.results[result].headline, source: 0, row: 0, head: null });
const resultOf = (panel) => DATA.results[panel.result];
const mapOf = (panel) => resultOf(panel).maps[panel.map];
const cellsOf = (medium) => medium.grid[0] * medium.grid[1] * medium.grid[2];
const totalOf = (result) => sum(result.media.map(cellsOf));
const active = () => state.panels[state.active];

/** Where the numbers of what a panel shows are: the block and row of its values, its share and its scales. */
function shownBy(panel) {
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

/** The value of every cell, and whether these are the values or coarse means that stand in; of a head none before. */
function valuesOf(panel) {
  const shown = shownBy(panel),
    values = rowOf(shown.block, shown.row);
  if (values) return { values, fine: true };
  if (!shown.coarse) return { values: new Float32Array(0), fine: false };
  return { values: spread(rowOf(shown.coarse.block, shown.coarse.row), resultOf(panel)), fine: false };
}

/** Coarse means over the cells that they are the means of. */
function spread(coarse, result) {
  const values = new Float32Array(totalOf(result)),
    side = DATA.cells_a_side;
  let at = 0,
    start = 0;
  for (const {
    grid: [steps, rows, columns],
  } of result.media) {
    const wide = Math.ceil(columns / side),
      many = Math.ceil(rows / side) * wide;
    for (let step = 0; step < steps; step++, start += many) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++)
          values[at++] = coarse[start + Math.floor(row / side) * wide + Math.floor(column / side)];
      }
    }
  }
  return values;
}

/** Which picture a cell is of, its step, row and column, and its box in the picture's pixels. */
function placeOf(result, index) {
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

/** The first cell of what is shown of a picture: of a clip, of the step of the frame. */
function startOf(result, number) {
  const before = sum(result.media.slice(0, number).map(cellsOf)),
    [, rows, columns] = result.media[number].grid;
  return before + stepNow(result) * rows * columns;
}

const stepNow = (result) => (result.clip ? result.clip.step_of[frameNow(result)] : 0);
const frameNow = (result) => Math.min(state.frame, result.clip.frames.length - 1);

/** The brightest value. One scale is shared by panels whose values are of one kind. */
function highOf(panel, values) {
  if (state.scale === "shared") {
    const alike = state.panels.filter((one) => mapOf(one).name === mapOf(panel).name);
    return Math.max(...alike.map((one) => shownBy(one).shared));
  }
  return eachFrameAlone(panel) ? scaleHigh(scaledCells(panel, values)) : shownBy(panel).high;
}

const eachFrameAlone = (panel) => state.scale === "frame" && Boolean(resultOf(panel).clip);

/** The cells that a panel's scale is of: all, or those of the frame that is shown. */
function scaledCells(panel, values) {
  if (!eachFrameAlone(panel)) return values;
  const result = resultOf(panel),
    start = startOf(result, 0),
    [, rows, columns] = result.media[0].grid;
  return values.subarray(start, start + rows * columns);
}

/** Whether two panels show the same pictures in the same cells, so that a cell is marked in both. */
function sameCells(one, other) {
  const shownIn = (number) => {
    const { media, clip } = resultOf(state.panels[number]);
    return JSON.stringify([media.map((medium) => [medium.picture, medium.grid]), clip?.frames]);
  };
  return one === other || (Boolean(state.panels[one]) && shownIn(one) === shownIn(other));
}

/** What a panel shows, in words. */
function describe(panel) {
  const result = resultOf(panel),
    map = mapOf(panel),
    source = map.sources[panel.source];
  if (panel.head) {
    const [layer, head] = panel.head;
    return `${t("head_of", map.heads.layers[layer], map.heads.numbers[head])} · ${whose(result.rows[0])}`;
  }
  const asked = whose(result.rows[panel.row]);
  if (map.name !== "attention") {
    const label = view.language === "en" ? map.layer_label : t("layer");
    const what = source.id === "layer" ? `${label} ${source.layers[0]}` : map.caption;
    return `${t("method", map.name)} · ${what}${map.follows_query ? ` · ${asked}` : ""}`;
  }
  const heads = source.heads === "all" ? t("mean_heads", result.head_count) : t("heads_named", source.heads);
  return `${layersName(source.layers)} ${t("of_layers", result.layer_count - 1)} · ${asked} · ${heads}`;
}

const layersName = (layers) => t(layers.length === 1 ? "layer_of" : "layers_of", ranges(layers));

/** Whose attention a row is. */
function whose(row) {
  const tokens = t(row.tokens === 1 ? "tokens_1" : "tokens_n", row.tokens);
  return t(`t_${row.kind}`, ...(row.text ? [row.text] : []), tokens);
}

/** What a source of a map is called where it can be chosen. */
function sourceName(result, number, source) {
  const layers = source.layers.length === result.layer_count ? t("all_layers") : layersName(source.layers);
  if (source.id === "all") return layers;
  if (number !== result.headline) return number && !source.layers.length ? t("whole") : layers;
  return source.layers.length ? `${t("headline")} (${ranges(source.layers)})` : t("headline");
}

/** The share on the picture of what a panel shows; null where its values are no attention. */
function shareOf(panel) {
  const map = mapOf(panel);
  if (map.is_attention) return shownBy(panel).mass;
  return panel.source === 0 ? map.share : null;
}

/** Of a clip, which frame is shown. */
function frameWords(result) {
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
