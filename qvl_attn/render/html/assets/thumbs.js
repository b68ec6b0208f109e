// Small maps of all layers and of the heads of one layer, as buttons.

const THUMB_PX = 84,
  MIN_THUMB_PX = 6;

/** A small map as a button, painted only when what it shows changed. */
function thumb(holder, number, { panel, label, name, pressed, framed, pick }) {
  const result = resultOf(panel),
    [, rows, columns] = result.media[0].grid;
  let button = holder.children[number];
  if (!button) {
    button = make("button", { type: "button", class: "thumb" }, make("canvas"), make("span", {}));
    button.addEventListener("click", () => change(button.pick));
    holder.append(button);
  }
  button.pick = pick;
  button.setAttribute("aria-pressed", String(pressed));
  button.setAttribute("aria-label", name);
  button.classList.toggle("framed", framed);
  setText(button.querySelector("span"), label);
  const entry = entryOf(panel),
    { values, fine } = valuesOf(panel),
    high = values.length ? highOf(panel, values) : undefined,
    canvas = button.querySelector("canvas");
  const key = [panel.result, entry.block, entry.row, fine, high, stepNow(result), state.colormap, state.interp].join(
    " ",
  );
  button.classList.toggle("coarse", high === undefined);
  if (high === undefined || button.dataset.key === key) return;
  button.dataset.key = key;
  const thumbWidth = THUMB_PX * Math.min(columns / rows, 1.6),
    [width, height] = [thumbWidth, (thumbWidth * rows) / columns].map((px) => Math.max(Math.round(px), MIN_THUMB_PX));
  Object.assign(canvas, { width, height });
  paint(canvas, visibleCells(result, 0, values), rows, columns, high, state.colormap, state.interp);
}

function drawThumbs(holder, thumbs) {
  while (holder.children.length > thumbs.length) holder.lastChild.remove();
  thumbs.forEach((options, number) => thumb(holder, number, options));
}

function drawLayerThumbs() {
  const panel = active(),
    result = resultOf(panel),
    map = mapOf(panel),
    layers = layersOf(map),
    first = firstLayer(map);
  $("layers-card").hidden = !layers.length;
  const mixed = layers.some((source) => source.whole !== undefined),
    whole = t(result.clip ? "whole_step" : "whole_picture");
  const thumbs = layers.map((source, number) => {
    const label = layerName(source.layers[0]),
      name = source.layers[0] < 0 ? label : `${t("layer")} ${label}`;
    return {
      panel: { ...panel, source: first + number },
      label,
      name: `${name}${source.whole ? `, ${whole}` : ""}`,
      pressed: panel.source === first + number,
      framed: Boolean(source.whole),
      pick: () => chooseSource(active(), first + number),
    };
  });
  drawThumbs($("layer-thumbs"), thumbs);
  const onlySomeLayers = headNow(panel) !== null && map.heads.layers.length < layers.length;
  const hints = [...(mixed ? [t("layers_windowed", whole)] : []), ...(onlySomeLayers ? [t("layers_mean")] : [])];
  $("layers-hint").textContent = hints.join(" ");
}

/** Draw the heads of the layer; they are those of the first map, whose heads they make up. */
function drawHeadThumbs() {
  const panel = active(),
    attention = { ...panel, map: 0 },
    isAttention = mapOf(panel).kind === "attention";
  $("head-thumbs-card").hidden = !isAttention;
  if (!isAttention) return;
  const layer = headLayer(attention),
    numbers = layer < 0 ? [] : mapOf(attention).heads.numbers,
    isCell = rowAt(resultOf(panel), panel.row).kind === "cell";
  $("head-thumbs-title").textContent = t("heads_of_layer", sourceOf(panel).layers[0]);
  $("head-thumbs-hint").textContent = t(isCell ? "heads_clicked" : numbers.length ? "heads_pick" : "heads_none");
  const thumbs = numbers.map((number, head) => ({
    panel: { ...attention, head },
    label: String(number),
    name: t("head_n", number),
    pressed: headNow(panel) === head,
    framed: false,
    pick: () => chooseHead(active(), layer, head),
  }));
  drawThumbs($("head-thumbs"), thumbs);
}
