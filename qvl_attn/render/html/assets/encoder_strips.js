// Thumbnails of all layers and of the heads of one layer, and the charts of figures by layer.

const THUMB_PX = 84,
  MIN_THUMB_PX = 6;

/** A small map as a button, painted only when what it shows changed. */
function thumb(holder, number, { layer, over, label, name, pressed, framed, pick }) {
  let button = holder.children[number];
  if (!button) {
    const thumbWidth = THUMB_PX * Math.min(COLUMNS / ROWS, 1.6),
      [width, height] = [thumbWidth, (thumbWidth * ROWS) / COLUMNS].map((px) => Math.max(Math.round(px), MIN_THUMB_PX)),
      canvas = make("canvas", { width, height });
    button = make("button", { type: "button", class: "thumb" }, canvas, make("span", {}));
    button.addEventListener("click", () => change(button.pick));
    holder.append(button);
  }
  button.pick = pick;
  button.setAttribute("aria-pressed", String(pressed));
  button.setAttribute("aria-label", name);
  button.classList.toggle("framed", framed);
  setText(button.querySelector("span"), label);
  const entry = entryOf(layer, over),
    values = ofStep(valuesOf(entry)),
    high = values && highOf(entry);
  const key = [entry.block, entry.row, high, state.step, state.colormap, state.interp].join(" ");
  button.classList.toggle("coarse", high === undefined);
  if (high === undefined || button.dataset.key === key) return;
  button.dataset.key = key;
  paint(button.querySelector("canvas"), values, ROWS, COLUMNS, high, state.colormap, state.interp);
}

function drawThumbs(holder, thumbs) {
  while (holder.children.length > thumbs.length) holder.lastChild.remove();
  thumbs.forEach((options, number) => thumb(holder, number, options));
}

function drawLayerThumbs() {
  $("layers-card").hidden = isSaliency();
  if (isSaliency()) return;
  const mixed = DATA.windowed && state.kind === "attention",
    whole = t(DATA.steps.of > 1 ? "whole_step" : "whole_picture");
  const thumbs = layersOf().map((layer) => ({
    layer,
    over: state.over,
    label: layer < 0 ? t("before_layers") : String(layer),
    name: `${layer < 0 ? t("before_layers") : `${t("layer")} ${layer}`}${mixed && DATA.full[layer] ? `, ${whole}` : ""}`,
    pressed: layer === state.layer,
    framed: mixed && DATA.full[layer],
    pick: () => (state.layer = layer),
  }));
  drawThumbs($("layer-thumbs"), thumbs);
  const onlySomeLayers =
    typeof overNow() === "number" && state.kind === "attention" && queryNow().heads.layers.length < layersOf().length;
  const hints = [...(mixed ? [t("layers_windowed", whole)] : []), ...(onlySomeLayers ? [t("layers_mean")] : [])];
  $("layers-hint").textContent = hints.join(" ");
}

function drawHeadThumbs() {
  const isAttention = state.kind === "attention",
    available = hasHeads(state.layer);
  $("heads-card").hidden = !isAttention;
  if (!isAttention) return;
  $("heads-title").textContent = t("heads_of_layer", state.layer);
  $("heads-hint").textContent = t(clicked() ? "heads_clicked" : available ? "heads_told" : "heads_none");
  const numbers = available ? [...Array(DATA.head_count).keys()] : [];
  const thumbs = numbers.map((head) => ({
    layer: state.layer,
    over: head,
    label: String(head),
    name: t("head_n", head),
    pressed: state.over === head,
    framed: false,
    pick: () => (state.over = state.over === head ? "mean" : head),
  }));
  drawThumbs($("head-thumbs"), thumbs);
}

/** Draw one chart per figure: mean and range of the heads, and the value of uniform attention. */
function drawFigures() {
  const x = [...DATA.full.keys()],
    head = typeof overNow() === "number" && state.kind === "attention" ? state.over : null;
  const layer = Math.max(state.layer, 0);
  const figures = DATA.figures.map(({ name, values, chance }) => {
    const mean = values.map((heads) => sum(heads) / heads.length);
    const lines = [
      {
        label: t("figures_mean"),
        kind: "mean",
        x,
        y: mean,
        low: values.map((heads) => Math.min(...heads)),
        high: values.map((heads) => Math.max(...heads)),
      },
      { label: t("figures_chance"), kind: "chance", x, y: chance },
    ];
    if (head !== null)
      lines.push({ label: t("figures_head", head), kind: "main", x, y: values.map((heads) => heads[head]) });
    const text = t(
      "at_layer",
      layer,
      compact((head === null ? mean : values.map((heads) => heads[head]))[layer]),
      compact(chance[layer]),
    );
    const figure = chart({
      width: 380,
      lines,
      xLabel: t("layer"),
      yLabel: t(`f_${name}`),
      label: `${t(`f_${name}`)}. ${text}`,
      at: layer,
      whole: true,
      pick: (at) => change(() => chooseLayer(Math.round(at))),
    });
    const key = figure.querySelector("figcaption");
    $("figures-key").replaceChildren(...key.children);
    key.replaceWith(make("figcaption", { class: "hint" }, text));
    return figure;
  });
  $("figures").replaceChildren(...figures);
}
