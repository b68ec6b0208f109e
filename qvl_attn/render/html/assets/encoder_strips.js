// Small multiples: every layer, every head of one layer; and the figures by layer.

const THUMB_PX = 84,
  LEAST_THUMB_PX = 6;

/** A small map as a button. Painted anew only when something else is shown. */
function thumb(holder, number, { layer, over, label, name, pressed, framed, pick }) {
  let button = holder.children[number];
  if (!button) {
    const wide = THUMB_PX * Math.min(COLUMNS / ROWS, 1.6),
      [width, height] = [wide, (wide * ROWS) / COLUMNS].map((px) => Math.max(Math.round(px), LEAST_THUMB_PX)),
      canvas = make("canvas", { width, height });
    button = make("button", { type: "button", class: "thumb" }, canvas, make("span", {}));
    button.addEventListener("click", () => change(button.pick));
    holder.append(button);
  }
  button.pick = pick;
  button.setAttribute("aria-pressed", String(pressed));
  button.setAttribute("aria-label", name);
  button.classList.toggle("framed", framed);
  say(button.querySelector("span"), label);
  const shown = shownBy(layer, over),
    values = ofStep(valuesOf(shown)),
    high = values && highOf(shown);
  const key = [shown.block, shown.row, high, state.step, state.colormap, state.interp].join(" ");
  button.classList.toggle("coarse", high === undefined);
  if (high === undefined || button.dataset.key === key) return;
  button.dataset.key = key;
  paint(button.querySelector("canvas"), values, ROWS, COLUMNS, high, state.colormap, state.interp);
}

function drawThumbs(holder, thumbs) {
  while (holder.children.length > thumbs.length) holder.lastChild.remove();
  thumbs.forEach((one, number) => thumb(holder, number, one));
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
  const some =
    typeof overNow() === "number" && state.kind === "attention" && queryNow().heads.layers.length < layersOf().length;
  const hints = [...(mixed ? [t("layers_windowed", whole)] : []), ...(some ? [t("layers_mean")] : [])];
  $("layers-hint").textContent = hints.join(" ");
}

function drawHeadThumbs() {
  const attention = state.kind === "attention",
    some = hasHeads(state.layer);
  $("heads-card").hidden = !attention;
  if (!attention) return;
  $("heads-title").textContent = t("heads_of_layer", state.layer);
  $("heads-hint").textContent = t(clicked() ? "heads_clicked" : some ? "heads_told" : "heads_none");
  const numbers = some ? [...Array(DATA.head_count).keys()] : [];
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

/** A chart a figure: the mean of the heads, from the least head to the largest, and what an even spread gives. */
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
    const told = t(
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
      label: `${t(`f_${name}`)}. ${told}`,
      at: layer,
      whole: true,
      pick: (at) => change(() => chooseLayer(Math.round(at))),
    });
    const key = figure.querySelector("figcaption");
    $("figures-key").replaceChildren(...key.children);
    key.replaceWith(make("figcaption", { class: "hint" }, told));
    return figure;
  });
  $("figures").replaceChildren(...figures);
}
