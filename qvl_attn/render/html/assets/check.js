// The page of a check: starts, draws the plots and samples, connects the controls.

const plots = { layerFigure: "pointing", headFigure: "pointing", layer: null, head: null };

const figureOptions = (names) => names.map((name) => [name, t(`f_${name}`)]);

/** The layers of the headline; where heads are named, the layers of these heads. */
function headlineLayers() {
  const { layers = [], heads } = DATA.headline_of ?? {};
  return heads ? [...new Set(heads.map(([layer]) => layer))] : layers;
}

function drawLayerPlot() {
  const rows = DATA.layers,
    names = DATA.figures.filter((name) => rows.some((row) => row[name] && row[name].mean !== null));
  $("layers-card").hidden = !names.length;
  if (!names.length) return;
  if (!names.includes(plots.layerFigure)) plots.layerFigure = names[0];
  fillList($("layer-figure"), figureOptions(names), plots.layerFigure);
  const name = plots.layerFigure,
    series = (key) => rows.map((row) => row[name][key] ?? NaN),
    x = rows.map((row) => row.layer);
  /** @type {Line[]} */
  const lines = [{ label: t("mean_of"), kind: "mean", x, y: series("mean"), low: series("low"), high: series("high") }];
  if ("chance" in rows[0][name]) lines.push({ label: t("c_chance"), kind: "chance", x, y: series("chance") });
  if (name !== "vision_mass" && "other" in rows[0][name])
    lines.push({ label: t("c_other"), kind: "beside", x, y: series("other") });
  const headline = headlineLayers(),
    shaded = headline.length < x.length ? headline.map((layer) => [layer - 0.5, layer + 0.5]) : [];
  $("layers").replaceChildren(
    chart({
      width: Math.max($("layers").clientWidth, 320),
      lines,
      shaded,
      whole: true,
      xLabel: t("layer"),
      yLabel: t(`f_${name}`),
      label: `${t("by_layer")}: ${t(`f_${name}`)}`,
      at: plots.layer ?? undefined,
      pick: (at) => {
        plots.layer = Math.min(Math.max(Math.round(at), x[0]), x[x.length - 1]);
        drawLayerPlot();
      },
    }),
  );
  const row = rows.find(({ layer }) => layer === plots.layer),
    figure = row?.[name],
    slider = $("layer-pick");
  Object.assign(slider, { min: x[0], max: x[x.length - 1], value: plots.layer ?? x[0] });
  slider.classList.toggle("idle", !figure);
  slider.setAttribute("aria-valuetext", figure ? `${t("layer")} ${plots.layer}: ${fixed(figure.mean)}` : "–");
  const hasChance = figure && figure.chance !== null && figure.chance !== undefined,
    chance = hasChance ? t("chance_is", fixed(figure.chance)) : "";
  const text = figure ? t("layer_values", plots.layer, `${fixed(figure.mean)} (${interval(figure)})`, chance) : "";
  setText($("layer-hint"), text || (shaded.length ? t("shaded") : ""));
}

function drawHeadPlot() {
  const heads = DATA.heads;
  $("heads-card").hidden = !heads;
  if (!heads) return;
  fillList($("head-figure"), figureOptions(Object.keys(heads)), plots.headFigure);
  const values = heads[plots.headFigure].map((row) => row.map((value) => value ?? NaN)),
    layers = DATA.layers.map((row) => row.layer);
  const describeHead = (layer, head) =>
    `${t("head_of", layers[layer], head)}: ${fixed(heads[plots.headFigure][layer][head])}`;
  drawMatrix($("heads"), {
    values,
    layers,
    heads: [...values[0].keys()],
    chosen: plots.head,
    label: t("by_head"),
    describe: describeHead,
    marked: DATA.headline_of?.heads ?? [],
    pick: (layer, head) => {
      plots.head = [layer, head];
      drawHeadPlot();
    },
  });
  const ends = t("heads_ends", ...endsOf(values).map((value) => fixed(value)));
  const hint = `${t("heads_hint")}${DATA.headline_of?.heads ? ` ${t("outlined")}.` : ""}`;
  setText($("heads-hint"), `${ends} ${plots.head ? describeHead(...plots.head) : hint}`);
}

function drawSamples() {
  const rows = filteredRows(),
    cards = rows.filter((row) => cardOf.has(row));
  cardObserver.disconnect();
  $("cards").replaceChildren(...cards.map(cardElement));
  $("count").textContent =
    t("counted", rows.length, DATA.rows.length, cards.length) +
    (DATA.left_out ? ` ${t("rows_left_out", DATA.left_out)}` : "");
  $("order").textContent = t(filters.down ? "down" : "up");
  $("order").setAttribute("aria-pressed", String(filters.down));
  drawRows();
}

function drawAll() {
  translate();
  const { model, accuracy } = DATA;
  $("figures-title").textContent = t("title", model.name, DATA.data);
  const right =
    accuracy && accuracy.mean !== null ? ` · ${t("accuracy", fixed(accuracy.mean), interval(accuracy))}` : "";
  $("facts").textContent =
    t("facts", DATA.samples, DATA.pictures, DATA.with_boxes, DATA.errors, DATA.headline_map) + right;
  $("notes").replaceChildren(...DATA.notes.map((note) => make("li", {}, note)));
  $("made").textContent = t(
    "made_check",
    model.qvl_attn,
    model.name,
    String(model.revision).slice(0, 12),
    model.attention,
    model.dtype,
    model.device,
  );
  fillList($("sort"), [["order", t("order")], ...figureOptions([...DATA.figures, "area"])], filters.sort);
  for (const name of ["right", "grounded", "search"]) $(name).value = filters[name];
  drawColours();
  drawFigures();
  drawHeadPlot(); // first: it takes half of the width from the plot by layer
  drawLayerPlot();
  drawSamples();
}

function begin() {
  $("grounded").parentElement.hidden = !DATA.rows.some((row) => row.grounded !== null);
  $("right").parentElement.hidden = !DATA.rows.some((row) => verdictOf(row));
  listenToHeader(drawAll);
  listenToColours(redrawCards);
  const on = (id, event, update, draw) =>
    $(id).addEventListener(event, () => {
      update($(id));
      draw();
    });
  const filter = (event, name) =>
    on(name, event, ({ value }) => Object.assign(filters, { [name]: value, shown: ROWS_AT_ONCE }), drawSamples);
  for (const name of ["sort", "right", "grounded"]) filter("change", name);
  filter("input", "search");
  on("order", "click", () => (filters.down = !filters.down), drawSamples);
  on("outlines", "change", ({ checked }) => (filters.outlines = checked), redrawCards);
  on("more", "click", () => (filters.shown += ROWS_AT_ONCE), drawRows);
  on("layer-figure", "change", ({ value }) => (plots.layerFigure = value), drawLayerPlot);
  on("layer-pick", "input", ({ value }) => (plots.layer = Number(value)), drawLayerPlot);
  on("head-figure", "change", ({ value }) => (plots.headFigure = value), drawHeadPlot);
  addEventListener("resize", drawLayerPlot);
  $("sample").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") stepSample(event.key === "ArrowRight" ? 1 : -1);
  });
  drawAll();
}

// The blocks follow the script, so wait for the whole document.
addEventListener("DOMContentLoaded", () => {
  begin();
  document.documentElement.dataset.state = "fine";
});
