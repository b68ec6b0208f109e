// The page of an encoder's look: what can be clicked, slid and typed changes `state`, and all is drawn from it.

let waiting = false;

/** Change the state, then draw all of it, once a frame. */
function change(how) {
  how();
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawAll();
  });
}

/** To one of the layers that are shown, or the nearest. */
function chooseLayer(layer) {
  const layers = layersOf();
  state.layer = Math.min(Math.max(layer, layers[0]), layers[layers.length - 1]);
}

function stepLayer(by) {
  const layers = layersOf(),
    at = layers.indexOf(state.layer) + by;
  if (!isSaliency()) state.layer = layers[Math.min(Math.max(at, 0), layers.length - 1)];
}

/** Attention, the likeness to a patch that was asked about, or a map of saliency. */
function chooseKind(kind) {
  if (kind === "similarity" && !hasLikeness()) return;
  state.kind = /^\d+$/.test(kind) ? Number(kind) : kind;
  if (!isSaliency()) {
    const layers = layersOf();
    state.layer = layers.reduce((best, one) =>
      Math.abs(one - state.layer) < Math.abs(best - state.layer) ? one : best,
    );
  }
}

/** Where a single patch looks; the same again goes back. Of attention alone: a click changes no other map. */
function choosePatch(place) {
  if (!DATA.clicked || place === null || state.kind !== "attention") return;
  state.place = state.place === place ? null : place;
}

function pointAt(place) {
  state.cell = place;
  drawMarks();
  inspect();
}

/** The arrow keys move from patch to patch of the picture. */
function walk(event) {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] },
    here = state.cell;
  if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = here === null ? 0 : Math.min(Math.max(rowAt(here) + down, 0), ROWS - 1),
      column = here === null ? 0 : Math.min(Math.max(columnAt(here) + right, 0), COLUMNS - 1);
    pointAt(row * COLUMNS + column);
  } else if (event.key === "Enter" || event.key === " ") change(() => choosePatch(here));
  else return;
  event.preventDefault();
}

function listen() {
  $("picture").addEventListener("pointermove", (event) => pointAt(placeAt(event)));
  $("picture").addEventListener("pointerleave", () => pointAt(null));
  $("picture").addEventListener("click", (event) => change(() => choosePatch(placeAt(event))));
  $("picture").addEventListener("keydown", walk);
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
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input:not([type=range])")) return;
    if (key === "[" || key === "]") change(() => stepLayer(key === "]" ? 1 : -1));
    else if (key === "," || key === ".")
      change(() => (state.step = Math.min(Math.max(state.step + (key === "." ? 1 : -1), 0), STEPS - 1)));
    else if (key === "Escape") change(() => Object.assign(state, { place: null, cell: null }));
  });
}

/** Who asks: of likeness the patches that were asked about alone. */
function drawQueries() {
  const alike = state.kind === "similarity",
    queries = alike ? asksAlone() : DATA.queries;
  const chips = queries.map((query) => {
    const button = make("button", { type: "button" }, queryName(query));
    button.setAttribute("aria-pressed", String(query === queryNow() && !clicked()));
    button.addEventListener("click", () =>
      change(() => Object.assign(state, { query: DATA.queries.indexOf(query), place: null })),
    );
    return button;
  });
  if (DATA.clicked && !alike) {
    const place = state.place,
      name = place === null ? t("w_none") : t("w_clicked", rowAt(place) + 1, columnAt(place) + 1);
    const button = make("button", { type: "button", disabled: place === null }, name);
    button.setAttribute("aria-pressed", String(clicked()));
    button.addEventListener("click", () => change(() => (state.place = null)));
    chips.push(button);
  }
  const at = [...$("queries").children].indexOf(document.activeElement);
  $("queries").replaceChildren(...chips);
  $("queries").hidden = isSaliency();
  if (at >= 0) chips[Math.min(at, chips.length - 1)].focus({ preventScroll: true });
  const known = DATA.clicked?.places.length ?? 0;
  const lines = [known ? t("click_hint") : t("click_none")];
  if (known && known < CELLS) lines.push(t("click_some", known, CELLS));
  say($("click-hint"), lines.join(" "));
  $("click-hint").hidden = state.kind !== "attention";
  const standing = standingWords();
  $("nearest").hidden = !standing;
  say($("nearest"), standing);
}

/** What is shown where that is not the patch that was clicked, or would be; else nothing. */
function standingWords() {
  if (isSaliency()) return t("click_saliency");
  if (state.kind === "similarity") return t("click_alike", ...queryNow().point);
  if (!clicked() || nearest(state.place) === state.place) return "";
  return t("nearest", rowAt(state.place) + 1, columnAt(state.place) + 1);
}

/** A list to choose of: the texts anew, the choice kept. */
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
    attention = state.kind === "attention";
  const kinds = [["attention", t("kind_attention")]];
  if (asksAlone().length) kinds.push(["similarity", t(hasLikeness() ? "cosine" : "cosine_asked")]);
  DATA.saliency.forEach(({ method, target }, number) =>
    kinds.push([String(number), t("kind_saliency", t(`m_${method}`), target)]),
  );
  $("kind-line").hidden = kinds.length < 2;
  fill($("kind"), kinds, String(state.kind));
  for (const option of $("kind").options) option.disabled = option.value === "similarity" && !hasLikeness();
  $("layer-line").hidden = isSaliency();
  $("layer").max = layers.length - 1;
  $("layer").value = layers.indexOf(state.layer);
  const layer = state.layer < 0 ? t("before_layers") : String(state.layer);
  $("layer").setAttribute("aria-valuetext", state.layer < 0 ? layer : `${t("layer")} ${layer}`);
  $("layer-told").textContent = layer;
  $("over-line").hidden = !attention;
  const maps = clicked() ? ["mean"] : Object.keys(queryNow().maps),
    heads = hasHeads(state.layer) ? [...Array(DATA.head_count).keys()] : [];
  const overs = [
    ...maps.map((name) => [name, t(`over_${name}`)]),
    ...heads.map((head) => [String(head), t("head_n", head)]),
  ];
  fill($("over"), overs, String(overNow()));
  $("over").disabled = overs.length < 2;
  for (const name of ["colormap", "interp", "scale"]) $(name).value = state[name];
  $("scale-line").hidden = !attention;
  $("alpha-told").textContent = percent(state.alpha);
  $("back").setAttribute("aria-pressed", String(state.back));
  $("back-hint").textContent = [t("back_hint"), ...(PARTLY ? [t("veiled")] : [])].join(" ");
  $("step-line").hidden = STEPS < 2;
  $("step").max = STEPS - 1;
  $("step").value = state.step;
  $("step").setAttribute("aria-valuetext", stepWords());
  $("step-told").textContent = stepWords();
}

function drawFoot() {
  const { made } = DATA,
    named = (name) => (name.startsWith("at_") ? name : t(`w_${name}`));
  const told = DATA.left_out.map(([what, ...of]) => {
    if (what === "over") return t("left_over", t(`over_${of[0]}`), named(of[1]));
    if (what === "saliency") return t("left_saliency", t(`m_${of[0]}`), of[1]);
    return t(`left_${what}`, ...of.map((one) => (typeof one === "string" ? named(one) : one)));
  });
  $("notes").replaceChildren(...[...told, ...DATA.notes].map((line) => make("li", {}, line)));
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
  await unpack(shownBy().block);
  listenToTop(() => change(() => {}));
  listen();
  buildPicture();
  drawAll();
  document.documentElement.dataset.state = "coarse";
  let drawn = performance.now();
  await unpackAll(
    () => [shownBy().block, ...(hasHeads(state.layer) ? [shownBy(state.layer, 0).block] : [])],
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

begin().catch((fault) => {
  $("progress").textContent = t("broken", fault.message);
  throw fault;
});
