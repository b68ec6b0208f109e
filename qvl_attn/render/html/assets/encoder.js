// The page of an encoder: its controls change `state`, and everything is drawn from it.

let scheduled = false;

/** Change the state, then draw the page, at most once per frame of the screen. */
function change(update) {
  update();
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    drawAll();
  });
}

/** Choose a layer, or the first or last one if it is out of range. */
function chooseLayer(layer) {
  const layers = layersOf();
  state.layer = Math.min(Math.max(layer, layers[0]), layers[layers.length - 1]);
}

function stepLayer(by) {
  const layers = layersOf(),
    index = layers.indexOf(state.layer) + by;
  if (!isSaliency()) state.layer = layers[Math.min(Math.max(index, 0), layers.length - 1)];
}

/** Choose the kind of map: attention, similarity to a query patch, or the number of a saliency map. */
function chooseKind(kind) {
  if (kind === "similarity" && !hasSimilarity()) return;
  state.kind = /^\d+$/.test(kind) ? Number(kind) : kind;
  if (!isSaliency()) {
    const layers = layersOf();
    state.layer = layers.reduce((best, layer) =>
      Math.abs(layer - state.layer) < Math.abs(best - state.layer) ? layer : best,
    );
  }
}

/** Show the attention of a patch, or of the query if the patch was chosen before. Other kinds of map do not change. */
function choosePatch(place) {
  if (!DATA.clicked || place === null || state.kind !== "attention") return;
  state.place = state.place === place ? null : place;
}

function pointAt(place) {
  state.cell = place;
  drawMarks();
  inspect();
}

/** Move from patch to patch with the arrow keys; Enter chooses one. */
function moveByKey(event) {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] },
    current = state.cell;
  if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = current === null ? 0 : Math.min(Math.max(rowAt(current) + down, 0), ROWS - 1),
      column = current === null ? 0 : Math.min(Math.max(columnAt(current) + right, 0), COLUMNS - 1);
    pointAt(row * COLUMNS + column);
  } else if (event.key === "Enter" || event.key === " ") change(() => choosePatch(current));
  else return;
  event.preventDefault();
}

function listen() {
  $("picture").addEventListener("pointermove", (event) => pointAt(placeAt(event)));
  $("picture").addEventListener("pointerleave", () => pointAt(null));
  $("picture").addEventListener("click", (event) => change(() => choosePatch(placeAt(event))));
  $("picture").addEventListener("keydown", moveByKey);
  $("layer").addEventListener("input", () => change(() => (state.layer = layersOf()[Number($("layer").value)])));
  $("kind").addEventListener("change", () => change(() => chooseKind($("kind").value)));
  $("over").addEventListener("change", () => {
    const over = $("over").value;
    change(() => (state.over = /^\d+$/.test(over) ? Number(over) : over));
  });
  $("step").addEventListener("input", () => change(() => (state.step = Number($("step").value))));
  $("alpha").addEventListener("input", () => change(() => (state.alpha = Number($("alpha").value))));
  for (const name of ["colormap", "interp", "scale"])
    $(name).addEventListener("change", () => change(() => (state[name] = $(name).value)));
  $("back").addEventListener("click", () => change(() => (state.back = !state.back)));
  $("save").addEventListener("click", saveEncoderView);
  document.addEventListener("keydown", (event) => {
    const { key } = event,
      target = /** @type {Element} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input:not([type=range])")) return;
    if (key === "[" || key === "]") change(() => stepLayer(key === "]" ? 1 : -1));
    else if (key === "," || key === ".")
      change(() => (state.step = Math.min(Math.max(state.step + (key === "." ? 1 : -1), 0), STEPS - 1)));
    else if (key === "Escape") change(() => Object.assign(state, { place: null, cell: null }));
  });
}

/** Draw the buttons of the queries; similarity has only query patches. */
function drawQueries() {
  const isSimilarity = state.kind === "similarity",
    queries = isSimilarity ? pointQueries() : DATA.queries;
  const chips = queries.map((query) => {
    const button = make("button", { type: "button" }, queryName(query));
    button.setAttribute("aria-pressed", String(query === queryNow() && !clicked()));
    button.addEventListener("click", () =>
      change(() => Object.assign(state, { query: DATA.queries.indexOf(query), place: null })),
    );
    return button;
  });
  if (DATA.clicked && !isSimilarity) {
    const place = state.place,
      name = place === null ? t("w_none") : t("w_clicked", rowAt(place) + 1, columnAt(place) + 1);
    const button = make("button", { type: "button", disabled: place === null }, name);
    button.setAttribute("aria-pressed", String(clicked()));
    button.addEventListener("click", () => change(() => (state.place = null)));
    chips.push(button);
  }
  const focused = [...$("queries").children].indexOf(document.activeElement);
  $("queries").replaceChildren(...chips);
  $("queries").hidden = isSaliency();
  if (focused >= 0) chips[Math.min(focused, chips.length - 1)].focus({ preventScroll: true });
  const clickable = DATA.clicked?.places.length ?? 0;
  const lines = [clickable ? t("click_hint") : t("click_none")];
  if (clickable && clickable < CELLS) lines.push(t("click_some", clickable, CELLS));
  setText($("click-hint"), lines.join(" "));
  $("click-hint").hidden = state.kind !== "attention";
  const notice = substituteNotice();
  $("nearest").hidden = !notice;
  setText($("nearest"), notice);
}

/** A notice if a click has no effect, or if another patch stands in for the clicked one; otherwise empty. */
function substituteNotice() {
  if (isSaliency()) return t("click_saliency");
  if (state.kind === "similarity") return t("click_alike", ...queryNow().point);
  if (!clicked() || nearest(state.place) === state.place) return "";
  return t("nearest", rowAt(state.place) + 1, columnAt(state.place) + 1);
}

/** Fill a list with [value, text] options; unchanged options are not replaced. */
function fill(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...options.map(([name, text]) => make("option", { value: name }, text)));
  }
  select.value = value;
}

function drawChoices() {
  const layers = layersOf(),
    isAttention = state.kind === "attention";
  const kinds = [["attention", t("kind_attention")]];
  if (pointQueries().length) kinds.push(["similarity", t(hasSimilarity() ? "cosine" : "cosine_asked")]);
  DATA.saliency.forEach(({ method, target }, number) =>
    kinds.push([String(number), t("kind_saliency", t(`m_${method}`), target)]),
  );
  $("kind-line").hidden = kinds.length < 2;
  fill($("kind"), kinds, String(state.kind));
  for (const option of $("kind").options) option.disabled = option.value === "similarity" && !hasSimilarity();
  $("layer-line").hidden = isSaliency();
  $("layer").max = layers.length - 1;
  $("layer").value = layers.indexOf(state.layer);
  const layer = state.layer < 0 ? t("before_layers") : String(state.layer);
  $("layer").setAttribute("aria-valuetext", state.layer < 0 ? layer : `${t("layer")} ${layer}`);
  $("layer-told").textContent = layer;
  $("over-line").hidden = !isAttention;
  const maps = clicked() ? ["mean"] : Object.keys(queryNow().maps),
    heads = hasHeads(state.layer) ? [...Array(DATA.head_count).keys()] : [];
  const overs = [
    ...maps.map((name) => [name, t(`over_${name}`)]),
    ...heads.map((head) => [String(head), t("head_n", head)]),
  ];
  fill($("over"), overs, String(overNow()));
  $("over").disabled = overs.length < 2;
  for (const name of ["colormap", "interp", "scale"]) $(name).value = state[name];
  $("scale-line").hidden = !isAttention;
  $("alpha-told").textContent = percent(state.alpha);
  $("back").setAttribute("aria-pressed", String(state.back));
  $("back-hint").textContent = [t("back_hint"), ...(IS_CROPPED ? [t("veiled")] : [])].join(" ");
  $("step-line").hidden = STEPS < 2;
  $("step").max = STEPS - 1;
  $("step").value = state.step;
  $("step").setAttribute("aria-valuetext", describeStep());
  $("step-told").textContent = describeStep();
}

function drawFoot() {
  const { made } = DATA,
    nameOf = (query) => (query.startsWith("at_") ? query : t(`w_${query}`));
  const leftOut = DATA.left_out.map(([kind, ...details]) => {
    if (kind === "over") return t("left_over", t(`over_${details[0]}`), nameOf(details[1]));
    if (kind === "saliency") return t("left_saliency", t(`m_${details[0]}`), details[1]);
    return t(`left_${kind}`, ...details.map((detail) => (typeof detail === "string" ? nameOf(detail) : detail)));
  });
  $("notes").replaceChildren(...[...leftOut, ...DATA.notes].map((line) => make("li", {}, line)));
  const versions = [made.dtype, made.device, made.transformers, made.torch];
  $("made").textContent = t(
    "made_encoder",
    made.qvl_attn,
    made.model,
    made.revision.slice(0, 12),
    made.family,
    ...versions,
  );
  $("file").textContent = DATA.name;
  const steps = DATA.steps.of > 1 ? ` · ${t("seen_steps", DATA.steps.of)}` : "";
  $("seen").textContent =
    t("seen", ...DATA.size_px, `${made.model} (${made.family})`, ...DATA.input_px, COLUMNS, ROWS, DATA.patch_px) +
    steps;
  $("about").textContent = `${DATA.name} ${DATA.size_px.join("×")}`;
}

function drawAll() {
  translate();
  drawQueries();
  drawChoices();
  drawPicture();
  drawMarks();
  inspect();
  drawStrongest();
  drawLayerThumbs();
  drawHeadThumbs();
  drawFigures();
  drawFoot();
}

async function begin() {
  $("colormap").replaceChildren(...Object.keys(TABLES).map((name) => make("option", { value: name }, name)));
  await unpack(entryOf().block);
  listenToHeader(() => change(() => {}));
  listen();
  buildPicture();
  drawAll();
  document.documentElement.dataset.state = "coarse";
  let drawn = performance.now();
  await unpackAll(
    () => [entryOf().block, ...(hasHeads(state.layer) ? [entryOf(state.layer, 0).block] : [])],
    (done, total) => {
      $("progress").textContent = done < total ? t("loading", done, total) : "";
      if (performance.now() - drawn < 200) return;
      drawn = performance.now();
      change(() => {});
    },
  );
  change(() => {});
  document.documentElement.dataset.state = "fine";
}

begin().catch((error) => {
  $("progress").textContent = t("broken", error.message);
  throw error;
});
