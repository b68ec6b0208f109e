// Texts about what a panel shows.

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

const layersName = (layers) => t(layers.length === 1 ? "layer_of" : "layers_of", ranges(layers));
const layerName = (layer) => (layer < 0 ? t("before_layers") : String(layer));

/** A text of a row's kind, or the row's own name if its kind has none. */
function rowText(prefix, row, ...more) {
  const key = `${prefix}_${row.kind}`;
  return key in WORDS.en ? t(key, ...(row.text ? [row.text] : (row.parts ?? [])), ...more) : row.text;
}

/** Describe the query of a row. */
const describeRow = (row) =>
  rowText("t", row, ...(row.tokens ? [t(row.tokens === 1 ? "tokens_1" : "tokens_n", row.tokens)] : []));

/** Describe what a panel shows. */
function describe(panel) {
  const result = resultOf(panel),
    map = mapOf(panel),
    source = sourceOf(panel),
    row = rowAt(result, panel.row);
  return inKind(result, () => {
    if (map.kind !== "attention") return kindOf(result).describeMap?.(panel) ?? map.name;
    const head = headNow(panel);
    if (head !== null) return [t("head_of", source.layers[0], map.heads.numbers[head]), describeRow(row)].join(" · ");
    const layers = `${layersName(source.layers)} ${t("of_layers", result.layer_count - 1)}`,
      heads = describeHeads(result, source, row);
    return [layers, describeRow(row), ...(heads ? [heads] : [])].join(" · ");
  });
}

/** Describe which heads a map of attention joins; nothing if it is not known. */
function describeHeads(result, source, row) {
  const keys = { all: "mean_heads", max: "max_heads", min: "min_heads" };
  if (!source.heads) return "";
  if (row.kind === "cell") return t("mean_only", result.head_count);
  return keys[source.heads] ? t(keys[source.heads], result.head_count) : t("heads_named", source.heads);
}

/** Label of an average in the list of choices. */
function sourceName(result, number, source) {
  const layers = source.layers.length === result.layer_count ? t("all_layers") : layersName(source.layers);
  if (source.id === "all") return layers;
  if (number !== result.headline) return number && !source.layers.length ? t("whole") : layers;
  return source.layers.length ? `${t("headline")} (${ranges(source.layers)})` : t("headline");
}

/** Describe the current frame of a clip. */
function describeFrame(result) {
  const { times_s, steps, numbers } = result.clip,
    frame = frameNow(result),
    step = stepNow(result);
  return inKind(result, () =>
    t("frame_of", times_s[frame].toFixed(2), frame + 1, times_s.length, (numbers?.[step] ?? step) + 1, steps),
  );
}

/** Format a value; values of both signs have only as many digits as their packing keeps. */
const digits = (panel, value) => (mapOf(panel).signed ? value.toFixed(3).replace("-0.000", "0.000") : compact(value));

/** Format a value and, where there is a uniform map, its multiple of it. */
function describeValue(panel, value) {
  const uniform = uniformOf(panel);
  if (uniform === null) return digits(panel, value);
  return t("value_times", compact(value), uniform > 0 ? times(value / uniform) : "0");
}

/** Describe the end of a panel's scale. */
function describeHigh(panel, high) {
  const uniform = uniformOf(panel);
  return uniform === null ? digits(panel, high) : t("high", compact(high), times(high / uniform));
}

/** Describe the ends of a panel's scale: the range of the values, and how many are above the scale. */
function describeEnds(panel, cells, high) {
  const [min, max] = [cells.reduce((a, b) => Math.min(a, b)), cells.reduce((a, b) => Math.max(a, b))];
  const above = cells.filter((value) => value > high * (1 + 2 ** -11)).length;
  if (uniformOf(panel) === null) return t("ends_plain", digits(panel, min), digits(panel, max));
  return t(
    "ends",
    compact(min),
    describeValue(panel, max),
    above,
    cells.length,
    kindOf(resultOf(panel)).uniform?.(panel),
  );
}

/** Describe the share of a panel's attention on the picture; null if its values are not attention. */
function describeShare(panel) {
  const map = mapOf(panel),
    share = map.is_attention ? entryOf(panel).mass : panel.source === 0 ? map.share : null;
  const notes = [share === null || share === undefined ? t("unscaled") : t("share", percent(share))];
  if (map.removed.length) notes.push(t("removed"));
  return notes.join(" · ");
}
