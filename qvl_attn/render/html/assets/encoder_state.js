// What is looked at of an encoder: the state of its page, where the numbers of what is shown are, how it is called.

const [STEPS, ROWS, COLUMNS] = DATA.grid,
  CELLS = ROWS * COLUMNS;
const SINGLE = DATA.clicked ? new Map(DATA.clicked.places.map((place, number) => [place, number])) : new Map();

const state = {
  kind: "attention", // or "similarity", or the number of a saliency map
  query: 0,
  place: null, // of the patch that was clicked, which then asks in place of the query
  layer: DATA.head_layer,
  over: DATA.over, // or the number of a head
  scale: "own",
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  step: 0,
  back: false,
  cell: null, // the place that is pointed at
};

const queryNow = () => DATA.queries[state.query];
const clicked = () => state.kind === "attention" && state.place !== null;
const isSaliency = () => typeof state.kind === "number";
const layersOf = () => (state.kind === "similarity" ? DATA.similarity.layers : [...DATA.full.keys()]);
/** Likeness is known of the patches that were asked about alone. */
const hasLikeness = () => Boolean(DATA.similarity) && queryNow().kind === "at" && !clicked();
const asksAlone = () => DATA.queries.filter((query) => query.kind === "at" && DATA.similarity);

const rowAt = (place) => Math.floor(place / COLUMNS);
const columnAt = (place) => place % COLUMNS;
const boxOf = (place) => [
  DATA.xs[columnAt(place)],
  DATA.ys[rowAt(place)],
  DATA.xs[columnAt(place) + 1],
  DATA.ys[rowAt(place) + 1],
];

/** The patch that is nearest to a place of those whose own attention is here. */
function nearest(place) {
  const far = (other) => (rowAt(other) - rowAt(place)) ** 2 + (columnAt(other) - columnAt(place)) ** 2;
  return DATA.clicked.places.reduce((best, other) => (far(other) < far(best) ? other : best));
}

/** The place that asks, of a single patch. */
function askingPlace() {
  if (isSaliency()) return null;
  return clicked() ? nearest(state.place) : queryNow().place;
}

/** What can be shown of the heads: of clicked patches the mean alone; of some layers and queries no single heads. */
const hasHeads = (layer) =>
  state.kind === "attention" && !clicked() && Boolean(queryNow().heads?.layers.includes(layer));
function overNow(layer = state.layer, over = state.over) {
  if (clicked()) return "mean";
  if (typeof over === "number") return hasHeads(layer) ? over : "mean";
  return queryNow().maps[over] ? over : "mean";
}

/** Where the numbers of a map are: the block and row of its values, and its scales; of clicked patches found here. */
function shownBy(layer = state.layer, wanted = state.over) {
  if (isSaliency()) {
    const { block, high } = DATA.saliency[state.kind];
    return { block, row: 0, high, shared: high };
  }
  if (state.kind === "similarity") {
    const { layers, blocks } = DATA.similarity;
    return { block: blocks[queryNow().number - 1], row: layers.indexOf(layer), high: 1, shared: 1 };
  }
  if (clicked()) return { block: DATA.clicked.blocks[layer], row: SINGLE.get(nearest(state.place)) };
  const over = overNow(layer, wanted),
    { heads, maps } = queryNow();
  if (typeof over === "number") {
    const at = heads.layers.indexOf(layer);
    return { block: heads.blocks[at], row: over, high: heads.high[at][over], shared: heads.shared };
  }
  return { block: maps[over].block, row: layer, high: maps[over].high[layer], shared: maps[over].shared };
}

const COSINES = new Map();

/** All steps' values of a map, or undefined while they wait; a cosine is packed as what is not negative. */
function valuesOf(shown) {
  const values = rowOf(shown.block, shown.row);
  if (!values || state.kind !== "similarity") return values;
  const key = `${shown.block} ${shown.row}`;
  if (!COSINES.has(key))
    COSINES.set(
      key,
      values.map((value) => 2 * value - 1),
    );
  return COSINES.get(key);
}

const ofStep = (values) => values?.subarray(state.step * CELLS, (state.step + 1) * CELLS);

const HIGHS = new Map();

/** The brightest value of a map; undefined while what it is found from waits. */
function highOf(shown) {
  if (shown.high !== undefined) return state.scale === "shared" ? shown.shared : shown.high;
  const blocks = state.scale === "shared" ? DATA.clicked.blocks : [shown.block],
    key = `${blocks.length} ${shown.block * (blocks.length === 1)} ${shown.row}`;
  const rows = blocks.map((block) => rowOf(block, shown.row));
  if (!HIGHS.has(key) && rows.every(Boolean)) HIGHS.set(key, scaleHigh(rows.flatMap((row) => [...row])));
  return HIGHS.get(key);
}

/** Who asks, where one is chosen. */
function queryName(query) {
  return t(`w_${query.kind}`, ...(query.point ?? []));
}

/** What is shown, in words. */
function describe(layer = state.layer, over = overNow(layer)) {
  if (isSaliency()) return saliencyWords(DATA.saliency[state.kind]);
  if (state.kind === "similarity") {
    const where = layer < 0 ? t("before_layers") : t("after_layer", layer);
    return `${t("alike", ...queryNow().point)} · ${where}`;
  }
  const place = askingPlace(),
    whose = clicked()
      ? t("a_clicked", rowAt(place) + 1, columnAt(place) + 1)
      : t(`a_${queryNow().kind}`, ...(queryNow().point ?? []));
  const heads =
    typeof over === "number" ? t("head_n", over) : t(clicked() ? "mean_only" : `${over}_heads`, DATA.head_count);
  return `${t("layer_of", layer)} ${t("of_layers", DATA.layer_count - 1)} · ${whose} · ${heads}`;
}

/** How many tokens share an even spread in a layer: those of the step, or of a single patch's window. */
function tokensSeen(layer = state.layer) {
  if (!clicked()) return queryNow().tokens[layer];
  return DATA.full[layer] ? DATA.tokens : DATA.clicked.window_tokens[SINGLE.get(nearest(state.place))];
}

/** What an even spread gives a token. */
const evenWords = () => t(tokensSeen() < DATA.tokens ? "even_window" : "even", tokensSeen());

const multipleOf = (value) => value * tokensSeen();

/** A value of the map that is shown, in digits; a cosine has as many as are true. */
const digits = (value) => (state.kind === "similarity" ? value.toFixed(3).replace("-0.000", "0.000") : compact(value));

/** A map of saliency: its method, what it is for, and the model's own figure for that. */
const saliencyWords = ({ method, target, score, of_text }) =>
  t("saliency_of", t(`m_${method}`), target, t(of_text ? "cosine" : "probability"), score.toFixed(3));

/** How much of the attention goes to patches, and where the rest goes. */
function shareWords(values) {
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

/** What of the query's attention goes to [CLS], or to the registers. */
function prefixShare(role, over) {
  const heads = queryNow().prefix[role][state.layer].map((steps) => steps[state.step]);
  return typeof over === "number" ? heads[over] : sum(heads) / heads.length;
}

/** Which step of a clip is shown. */
function stepWords() {
  const { numbers, of, times_s } = DATA.steps,
    step = numbers[state.step] + 1;
  return times_s.length ? t("step_time", times_s[state.step].toFixed(2), step, of) : t("step_told", step, of);
}
