// State of the page of an encoder; the values, scales and descriptions of what it shows.

const [STEPS, ROWS, COLUMNS] = DATA.grid,
  CELLS = ROWS * COLUMNS;
// The row of each clickable patch in the blocks of `DATA.clicked`.
const CLICKABLE = DATA.clicked ? new Map(DATA.clicked.places.map((place, number) => [place, number])) : new Map();

const state = {
  kind: "attention", // or "similarity", or the number of a saliency map
  query: 0,
  place: null, // index of the clicked patch, which replaces the query
  layer: DATA.head_layer,
  over: DATA.over, // or the number of a head
  scale: "own",
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  step: 0,
  back: false,
  cell: null, // index of the pointed patch
};

const queryNow = () => DATA.queries[state.query];
const clicked = () => state.kind === "attention" && state.place !== null;
const isSaliency = () => typeof state.kind === "number";
const layersOf = () => (state.kind === "similarity" ? DATA.similarity.layers : [...DATA.full.keys()]);
/** Only query patches have similarity. */
const hasSimilarity = () => Boolean(DATA.similarity) && queryNow().kind === "at" && !clicked();
const pointQueries = () => DATA.queries.filter((query) => query.kind === "at" && DATA.similarity);

const rowAt = (place) => Math.floor(place / COLUMNS);
const columnAt = (place) => place % COLUMNS;
const boxOf = (place) => [
  DATA.xs[columnAt(place)],
  DATA.ys[rowAt(place)],
  DATA.xs[columnAt(place) + 1],
  DATA.ys[rowAt(place) + 1],
];

/** The clickable patch that is nearest to a place. */
function nearest(place) {
  const distance = (patch) => (rowAt(patch) - rowAt(place)) ** 2 + (columnAt(patch) - columnAt(place)) ** 2;
  return DATA.clicked.places.reduce((best, patch) => (distance(patch) < distance(best) ? patch : best));
}

/** The patch whose attention or similarity is shown; null if it is not a single patch. */
function queryPlace() {
  if (isSaliency()) return null;
  return clicked() ? nearest(state.place) : queryNow().place;
}

/** Whether a layer has single heads: clicked patches have only the mean, and some queries only some layers. */
const hasHeads = (layer) =>
  state.kind === "attention" && !clicked() && Boolean(queryNow().heads?.layers.includes(layer));
function overNow(layer = state.layer, over = state.over) {
  if (clicked()) return "mean";
  if (typeof over === "number") return hasHeads(layer) ? over : "mean";
  return queryNow().maps[over] ? over : "mean";
}

/** The entry of a map: block and row of its values, and the ends of its scales; clicked patches have no ends yet. */
function entryOf(layer = state.layer, requestedOver = state.over) {
  if (isSaliency()) {
    const { block, high } = DATA.saliency[state.kind];
    return { block, row: 0, high, shared: high };
  }
  if (state.kind === "similarity") {
    const { layers, blocks } = DATA.similarity;
    return { block: blocks[queryNow().number - 1], row: layers.indexOf(layer), high: 1, shared: 1 };
  }
  if (clicked()) return { block: DATA.clicked.blocks[layer], row: CLICKABLE.get(nearest(state.place)) };
  const over = overNow(layer, requestedOver),
    { heads, maps } = queryNow();
  if (typeof over === "number") {
    const index = heads.layers.indexOf(layer);
    return { block: heads.blocks[index], row: over, high: heads.high[index][over], shared: heads.shared };
  }
  return { block: maps[over].block, row: layer, high: maps[over].high[layer], shared: maps[over].shared };
}

const COSINES = new Map();

/** Values of a map for all steps, undefined until they are unpacked. Cosines are packed as (cosine + 1) / 2. */
function valuesOf(entry) {
  const values = rowOf(entry.block, entry.row);
  if (!values || state.kind !== "similarity") return values;
  const key = `${entry.block} ${entry.row}`;
  if (!COSINES.has(key))
    COSINES.set(
      key,
      values.map((value) => 2 * value - 1),
    );
  return COSINES.get(key);
}

const ofStep = (values) => values?.subarray(state.step * CELLS, (state.step + 1) * CELLS);

const HIGHS = new Map();

/** The end of a map's scale, undefined until the values that it depends on are unpacked. */
function highOf(entry) {
  if (entry.high !== undefined) return state.scale === "shared" ? entry.shared : entry.high;
  const blocks = state.scale === "shared" ? DATA.clicked.blocks : [entry.block],
    key = `${blocks.join()} ${entry.row}`;
  const rows = blocks.map((block) => rowOf(block, entry.row));
  if (!HIGHS.has(key) && rows.every(Boolean)) HIGHS.set(key, scaleHigh(rows.flatMap((row) => [...row])));
  return HIGHS.get(key);
}

/** Label of a query's button. */
function queryName(query) {
  return t(`w_${query.kind}`, ...(query.point ?? []));
}

/** Describe what the page shows. */
function describe(layer = state.layer, over = overNow(layer)) {
  if (isSaliency()) return describeSaliency(DATA.saliency[state.kind]);
  if (state.kind === "similarity") {
    const depth = layer < 0 ? t("before_layers") : t("after_layer", layer);
    return `${t("alike", ...queryNow().point)} · ${depth}`;
  }
  const place = queryPlace(),
    query = clicked()
      ? t("a_clicked", rowAt(place) + 1, columnAt(place) + 1)
      : t(`a_${queryNow().kind}`, ...(queryNow().point ?? []));
  const heads =
    typeof over === "number" ? t("head_n", over) : t(clicked() ? "mean_only" : `${over}_heads`, DATA.head_count);
  return `${t("layer_of", layer)} ${t("of_layers", DATA.layer_count - 1)} · ${query} · ${heads}`;
}

/** Number of tokens that the query attends to in a layer: those of the step, or of a patch's window. */
function visibleTokens(layer = state.layer) {
  if (!clicked()) return queryNow().tokens[layer];
  return DATA.full[layer] ? DATA.tokens : DATA.clicked.window_tokens[CLICKABLE.get(nearest(state.place))];
}

/** Describe the value of a uniform map. */
const describeUniform = () => t(visibleTokens() < DATA.tokens ? "even_window" : "even", visibleTokens());

const multipleOf = (value) => value * visibleTokens();

/** Format a value; a cosine has only as many digits as its packing keeps. */
const digits = (value) => (state.kind === "similarity" ? value.toFixed(3).replace("-0.000", "0.000") : compact(value));

/** Describe a saliency map: its method, its target, and the model's score of the target. */
const describeSaliency = ({ method, target, score, of_text }) =>
  t("saliency_of", t(`m_${method}`), target, t(of_text ? "cosine" : "probability"), score.toFixed(3));

/** Describe the share of the attention that goes to patches, and where the rest goes. */
function describeShare(values) {
  if (isSaliency()) return t("unscaled_saliency");
  if (state.kind === "similarity") return t("unscaled_cosine");
  const over = overNow();
  if (over === "max" || over === "min") return t("no_share");
  const roles = Object.keys(DATA.prefix);
  if (!roles.length) return t("share_all");
  const rest = clicked()
    ? t("share_rest", roles.map((role) => t(`rest_${role}`)).join(" + "))
    : roles.map((role) => t(`share_${role}`, percent(prefixShare(role, over)))).join("");
  return t("share_patches", percent(sum(values)), rest);
}

/** Share of the query's attention that goes to [CLS], or to the registers. */
function prefixShare(role, over) {
  const heads = queryNow().prefix[role][state.layer].map((steps) => steps[state.step]);
  return typeof over === "number" ? heads[over] : sum(heads) / heads.length;
}

/** Describe the current step of a clip. */
function describeStep() {
  const { numbers, of, times_s } = DATA.steps,
    step = numbers[state.step] + 1;
  return times_s.length ? t("step_time", times_s[state.step].toFixed(2), step, of) : t("step_told", step, of);
}
