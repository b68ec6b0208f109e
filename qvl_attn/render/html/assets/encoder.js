// What an encoder's result has of its own: patches to click, similarity and saliency, and the shares of its tokens.

/** Describe the file and what the encoder sees of it. */
function drawFacts() {
  const result = resultOf(active()),
    { made, media, input_px, patch_px, clip } = result,
    [, rows, columns] = media[0].grid;
  const steps = clip ? ` · ${t("facts_steps", clip.steps)}` : "";
  const parts = [...media[0].size_px, `${made.model} (${made.family})`, ...input_px, columns, rows, patch_px];
  $("facts").textContent = t("facts", ...parts) + steps;
}

/** The number among `cell_rows` of the patch that is nearest to a place. */
function nearestRow(result, place) {
  const columns = result.media[0].grid[2],
    squared = (patch) =>
      (Math.floor(patch / columns) - Math.floor(place / columns)) ** 2 + ((patch % columns) - (place % columns)) ** 2;
  return result.cell_rows.reduce((best, patch, i) => (squared(patch) < squared(result.cell_rows[best]) ? i : best), 0);
}

/** The place of the patch that was clicked in a panel, whose row it shows; otherwise null. */
function clickedPlace(panel, number) {
  const result = resultOf(panel),
    { selected } = state;
  if (!result.cell_rows || panel.row < result.rows.length) return null;
  return selected?.panel === number ? placeOf(result, selected.index) : rowAt(result, panel.row).place;
}

/** Show the attention of a patch, or of the query if the patch was chosen before. Other maps do not change. */
function selectPatch(number, cell) {
  const panel = state.panels[number],
    result = resultOf(panel),
    place = placeOf(result, cell.index);
  if (!result.cell_rows || mapOf(panel).kind !== "attention") return;
  if (clickedPlace(panel, number) === place) return clearSelection();
  if (panel.row < result.rows.length) panel.query = { map: panel.map, row: panel.row, head: panel.head };
  state.selected = cell;
  chooseRow(number, result.rows.length + nearestRow(result, place));
}

/** The button that says which patch was clicked, and goes back to the query. */
function clickedChip(panel) {
  const result = resultOf(panel),
    place = clickedPlace(panel, state.active),
    columns = result.media[0].grid[2];
  if (!result.cell_rows) return [];
  const name = place === null ? t("clicked_none") : t("q_cell", Math.floor(place / columns) + 1, (place % columns) + 1);
  const button = chip(name, place !== null, clearSelection);
  button.disabled = place === null;
  return [button];
}

function patchHint(panel) {
  const result = resultOf(panel),
    cells = result.media[0].grid[1] * result.media[0].grid[2],
    clickable = result.cell_rows?.length ?? 0;
  if (mapOf(panel).kind !== "attention") return "";
  if (!clickable) return t("click_none");
  return [t("click_hint"), ...(clickable < cells ? [t("click_some", clickable, cells)] : [])].join(" ");
}

/** A notice if a click has no effect, or if another patch stands in for the clicked one; otherwise empty. */
function patchNotice(panel, number) {
  const result = resultOf(panel),
    { kind } = mapOf(panel),
    row = rowAt(result, panel.row),
    place = clickedPlace(panel, number),
    columns = result.media[0].grid[2];
  if (kind === "saliency") return t("click_saliency");
  if (kind === "similarity") return t("click_alike", ...row.parts);
  if (place === null || row.place === place) return "";
  return t("nearest", Math.floor(place / columns) + 1, (place % columns) + 1);
}

/** Label of a map in the list of maps. */
const patchMapName = (map) => t(`name_${map.name}`, map.target);

/** Describe a map of similarity or saliency. */
function describePatchMap(panel) {
  const map = mapOf(panel),
    [layer] = sourceOf(panel).layers;
  if (map.kind === "saliency")
    return t(
      "saliency_of",
      t(`m_${map.name}`),
      map.target,
      t(map.of_text ? "cosine" : "probability"),
      map.score.toFixed(3),
    );
  const depth = layer < 0 ? t("before_layers") : t("after_layer", layer);
  return `${t("alike", ...rowAt(resultOf(panel), panel.row).parts)} · ${depth}`;
}

/** Describe the value of a uniform map. */
function describeUniform(panel) {
  const { tokens } = entryOf(panel);
  return t(tokens < resultOf(panel).tokens ? "even_window" : "even", tokens);
}

/** Describe the share of the attention that goes to patches, and where the rest goes. */
function describePatchShare(panel) {
  const result = resultOf(panel),
    { kind } = mapOf(panel),
    { values, fine } = valuesOf(panel),
    source = sourceOf(panel),
    row = rowAt(result, panel.row);
  if (kind === "saliency") return t("unscaled_saliency");
  if (kind === "similarity") return t("unscaled_cosine");
  if (!fine) return "–";
  if (source.heads !== "all" && headNow(panel) === null) return t("no_share");
  if (!result.prefix.length) return t("share_all");
  const rest =
    row.kind === "cell"
      ? t("share_rest", result.prefix.map((role) => t(`rest_${role}`)).join(" + "))
      : result.prefix.map((role) => t(`share_${role}`, percent(prefixShare(panel, row.prefix[role])))).join("");
  return t("share_patches", percent(sum(visibleCells(result, 0, values))), rest);
}

/** Share of the query's attention, by layer, head and step, that goes to [CLS], or to the registers. */
function prefixShare(panel, shares) {
  const heads = shares[sourceOf(panel).layers[0]].map((steps) => steps[stepNow(resultOf(panel))]),
    head = headNow(panel);
  return head === null ? sum(heads) / heads.length : heads[head];
}

/** Describe what was left out of the page. */
function leftOutOfEncoder(kind, ...details) {
  const query = (name) => (name.startsWith("at_") ? name : t(`q_${name}`));
  if (kind === "over") return t("left_over", t(`over_${details[0]}`), query(details[1]));
  if (kind === "saliency") return t("left_saliency", t(`m_${details[0]}`), details[1]);
  return t(`left_${kind}`, ...details.map((detail) => (typeof detail === "string" ? query(detail) : detail)));
}

/** What tells results of one file apart: the encoder, and the map that comes first. */
const encoderDetails = ({ made, maps, headline }) => [
  `${made.model} (${made.family})`,
  patchMapName(maps[headline]),
  layersName(maps[headline].sources[maps[headline].start].layers),
];
