// State of the page of results of any kind; the values and scales of what a panel shows.

const state = {
  panels: [], // {result, map, source, row, head, layer, query}: see newPanel
  active: 0,
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  scale: "own",
  frame: 0,
  input: false, // whether pictures are replaced by the model's input
  cell: null, // {panel, index} of the pointed cell
  selected: null, // {panel, index} of the clicked cell
};

/**
 * What a panel shows: a map of a result, by numbers. `head` is null for the map's own join of heads; it stands while
 * the layer and the row have single heads. `layer` is the last layer that was chosen; `query` what a clicked cell's row
 * took the place of.
 */
function newPanel(result) {
  const map = DATA.results[result].headline,
    panel = {
      result,
      map,
      source: DATA.results[result].maps[map].start ?? 0,
      row: 0,
      head: null,
      layer: null,
      query: null,
    };
  rememberLayer(panel);
  return panel;
}

const resultOf = (panel) => DATA.results[panel.result];
const mapOf = (panel) => resultOf(panel).maps[panel.map];
const sourceOf = (panel) => mapOf(panel).sources[panel.source];
const cellsOf = (medium) => medium.grid[0] * medium.grid[1] * medium.grid[2];
const totalOf = (result) => sum(result.media.map(cellsOf));
const active = () => state.panels[state.active];

/** Draw with the texts of a result's kind. */
function inKind(result, draw) {
  const before = view.kind;
  view.kind = result.kind;
  try {
    return draw();
  } finally {
    view.kind = before;
  }
}

/** A row of a result; beyond its own rows there is one for each cell of `cell_rows`, a cell's number in a step. */
function rowAt(result, number) {
  if (number < result.rows.length) return result.rows[number];
  const place = result.cell_rows[number - result.rows.length],
    columns = result.media[0].grid[2];
  return { kind: "cell", place, parts: [Math.floor(place / columns) + 1, (place % columns) + 1] };
}

/** Whether a map has a row of its own for a row of the result. */
const hasRow = (map, row) => (map.rows ? map.rows.includes(row) : row < map.sources[0].rows);

/** The row of a panel in the blocks of its map. */
function rowIn(panel) {
  const { rows } = mapOf(panel);
  return rows ? Math.max(rows.indexOf(panel.row), 0) : panel.row;
}

/** The index of a panel's layer among those with single heads for its row; -1 if it has none. */
function headLayer(panel) {
  const { heads } = mapOf(panel),
    source = sourceOf(panel);
  if (!heads || source.id !== "layer") return -1;
  const layer = heads.layers.indexOf(source.layers[0]);
  return layer >= 0 && panel.row < heads.rows[layer] ? layer : -1;
}

/** The index of the single head that a panel shows, or null. */
const headNow = (panel) => (panel.head !== null && headLayer(panel) >= 0 ? panel.head : null);

/** The entry of what a panel shows: block and row of its values, its mass, and the ends of its scales where known. */
function entryOf(panel) {
  const map = mapOf(panel),
    source = sourceOf(panel),
    head = headNow(panel),
    row = rowIn(panel);
  if (head !== null) {
    const { heads } = map,
      layer = headLayer(panel),
      at = row * heads.numbers.length + head;
    return {
      block: heads.blocks[layer],
      row: at,
      mass: heads.mass?.[layer][at],
      tokens: source.tokens?.[row],
      high: heads.high[layer][at],
      shared: heads.shared[row],
    };
  }
  return {
    block: source.block,
    row,
    coarse: row < source.coarse_rows ? { block: map.coarse, row: source.coarse_at + row } : null,
    mass: source.mass?.[row],
    tokens: source.tokens?.[row],
    high: source.high[row],
    shared: map.shared[row],
  };
}

/** The values of all cells, and whether they are fine; until then coarse means stand in where there are some. */
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

/** The number in its step of a clip's or a single picture's cell. */
const placeOf = ({ media: [{ grid }] }, index) => index % (grid[1] * grid[2]);

/** The values of a picture's visible cells. */
function visibleCells(result, number, values) {
  const start = startOf(result, number),
    [, rows, columns] = result.media[number].grid;
  return values.subarray(start, start + rows * columns);
}

const stepNow = (result) => (result.clip ? result.clip.step_of[frameNow(result)] : 0);
const frameNow = (result) => Math.min(state.frame, result.clip.frames.length - 1);

/** What each cell has in a uniform map; null if the values are no shares of anything. */
function uniformOf(panel) {
  const { mass, tokens } = entryOf(panel);
  if (tokens) return 1 / tokens;
  return mass === undefined ? null : mass / totalOf(resultOf(panel));
}

/** The end of a panel's scale. Panels whose values are of one kind can share a scale. */
function highOf(panel, values) {
  if (state.scale === "shared") {
    const kindOf = (other) => `${resultOf(other).kind} ${mapOf(other).name}`;
    return Math.max(
      ...state.panels.filter((other) => kindOf(other) === kindOf(panel)).map(sharedHigh),
      sharedHigh(panel),
    );
  }
  return scaledByFrame(panel) ? scaleHigh(scaledCells(panel, values)) : (entryOf(panel).high ?? scaleHigh(values));
}

/** The end of one scale for all layers of a panel's map. */
function sharedHigh(panel) {
  const { row, shared } = entryOf(panel);
  if (shared !== undefined) return shared;
  return scaleHigh(mapOf(panel).sources.flatMap((source) => [...(rowOf(source.block, row) ?? [])]));
}

/** Values of both signs have a scale that is fixed. */
const scaledByFrame = (panel) => state.scale === "frame" && Boolean(resultOf(panel).clip) && !mapOf(panel).signed;

/** The cells that determine a panel's scale: all, or those of the current frame. */
const scaledCells = (panel, values) => (scaledByFrame(panel) ? visibleCells(resultOf(panel), 0, values) : values);

/** Whether two panels, by number, have the same pictures and cells, so that a cell is marked in both. */
function sameCells(first, second) {
  const layoutOf = (number) => {
    const { media, clip } = resultOf(state.panels[number]);
    return JSON.stringify([media.map((medium) => [medium.picture, medium.grid]), clip?.frames]);
  };
  return first === second || (Boolean(state.panels[first]) && layoutOf(first) === layoutOf(second));
}

// What is chosen

const firstLayer = (map) => map.sources.findIndex((source) => source.id === "layer");
const layersOf = (map) => map.sources.filter((source) => source.id === "layer");

function rememberLayer(panel) {
  const source = sourceOf(panel);
  if (source.id === "layer") [panel.layer] = source.layers;
}

/** Show a row: a query, a word, or a cell. What the map or the head that is shown does not have is in the first one. */
function chooseRow(number, row) {
  const panel = state.panels[number],
    head = headNow(panel);
  if (!hasRow(mapOf(panel), row)) chooseMap(panel, 0);
  panel.row = row;
  const hasNoHead = head !== null && headNow(panel) === null;
  if (hasNoHead) panel.head = null;
  if (hasNoHead ? firstLayer(mapOf(panel)) > 0 : !mapOf(panel).rows && row >= sourceOf(panel).rows)
    chooseSource(panel, 0);
}

/** Show an average or a layer. */
function chooseSource(panel, source) {
  panel.source = source;
  if (sourceOf(panel).id !== "layer" && mapOf(panel).heads) panel.head = null;
  if (!mapOf(panel).rows && panel.row >= sourceOf(panel).rows) panel.row = 0;
  rememberLayer(panel);
}

/** Show another map: its average if it has one, else the layer that is nearest to the last one. */
function chooseMap(panel, number) {
  const map = resultOf(panel).maps[number],
    distance = (source) => Math.abs(source.layers[0] - panel.layer);
  panel.map = number;
  if (map.rows?.length && !map.rows.includes(panel.row)) [panel.row] = map.rows;
  const nearest = map.sources.reduce(
    (best, source, i) => (distance(source) < distance(map.sources[best]) ? i : best),
    0,
  );
  chooseSource(panel, firstLayer(map) === 0 ? nearest : 0);
}

/** Show a single head, by index, of a layer with single heads, or the map's own join if the head is shown already. */
function chooseHead(panel, layer, head) {
  const { heads, sources } = resultOf(panel).maps[0],
    source = sources.findIndex(({ id, layers }) => id === "layer" && layers[0] === heads.layers[layer]),
    shown = panel.map === 0 && panel.source === source && headNow(panel) === head;
  Object.assign(panel, { map: 0, head: shown ? null : head });
  if (panel.row >= heads.rows[layer]) panel.row = 0;
  chooseSource(panel, source);
}

/** Go to the previous or next layer; from an average, before its first or after its last layer. */
function stepLayer(by, wrap = false) {
  const panel = active(),
    map = mapOf(panel),
    layers = layersOf(map),
    current = sourceOf(panel).layers;
  if (!layers.length) return;
  const target = layers.findIndex((source) => source.layers[0] === current[by > 0 ? current.length - 1 : 0]) + by;
  const last = layers.length - 1,
    index = wrap ? (target + layers.length) % layers.length : Math.min(Math.max(target, 0), last);
  chooseSource(panel, firstLayer(map) + index);
}
