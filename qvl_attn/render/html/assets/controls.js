// Controls of the page: each changes `state` through `change`, and is drawn from it.

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

const firstLayer = (map) => map.sources.findIndex((source) => source.id === "layer");
const layersOf = (map) => map.sources.filter((source) => source.id === "layer");

/** Show a row: a word, or a whole query. Only plain attention has words. */
function chooseRow(number, row) {
  const panel = state.panels[number];
  if (mapOf(panel).name !== "attention") Object.assign(panel, { map: 0, source: 0 });
  Object.assign(panel, { row, head: null });
  if (row >= mapOf(panel).sources[panel.source].rows) panel.source = 0;
}

/** Show an average or a layer. */
function chooseSource(panel, source) {
  Object.assign(panel, { source, head: null });
  if (panel.row >= mapOf(panel).sources[source].rows) panel.row = 0;
}

function chooseMap(panel, map) {
  const rows = DATA.results[panel.result].maps[map].name === "attention" ? panel.row : 0;
  Object.assign(panel, { map, source: 0, head: null, row: rows });
}

/** Go to the previous or next layer; from an average, before its first or after its last layer. */
function stepLayer(by, wrap = false) {
  const panel = active(),
    map = mapOf(panel),
    layers = layersOf(map),
    first = firstLayer(map);
  if (!layers.length) return;
  const current = panel.head ? [map.heads.layers[panel.head[0]]] : map.sources[panel.source].layers;
  const target = layers.findIndex((source) => source.layers[0] === current[by > 0 ? current.length - 1 : 0]) + by;
  const last = layers.length - 1,
    index = wrap ? (target + layers.length) % layers.length : Math.min(Math.max(target, 0), last);
  chooseSource(panel, first + index);
}

/** Make a button that calls `step` at intervals until it is pressed again or stopped. */
function player(button, intervalMs, step) {
  let timer = null;
  const setPlaying = (playing) => {
    clearInterval(timer);
    timer = playing ? setInterval(() => change(step), intervalMs) : null;
    button.setAttribute("aria-pressed", String(playing));
    button.dataset.t = playing ? "stop" : "play";
    setText(button, t(button.dataset.t));
  };
  button.addEventListener("click", () => setPlaying(timer === null));
  return { stop: () => timer !== null && setPlaying(false) };
}

const players = {};

function listen() {
  $("layer").addEventListener("input", () =>
    change(() => chooseSource(active(), firstLayer(mapOf(active())) + Number($("layer").value))),
  );
  players.layers = player($("play"), 600, () => stepLayer(1, true));
  players.clip = player($("film-play"), 500, () => {
    const clip = resultOf(active()).clip;
    if (clip) state.frame = (frameNow(resultOf(active())) + 1) % clip.frames.length;
  });
  $("map").addEventListener("change", () => change(() => chooseMap(active(), Number($("map").value))));
  $("alpha").addEventListener("input", () => change(() => (state.alpha = Number($("alpha").value))));
  for (const name of ["colormap", "interp", "scale"])
    $(name).addEventListener("change", () => change(() => (state[name] = $(name).value)));
  $("frame").addEventListener("input", () => change(() => (state.frame = Number($("frame").value))));
  for (const name of ["heads-by", "faith-kind", "faith-fill"])
    $(name).addEventListener("change", () => change(() => {}));
  $("compare").addEventListener("click", () => change(toggleCompare));
  $("save").addEventListener("click", saveView);
  document.addEventListener("keydown", (event) => {
    const target = /** @type {Element} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, textarea, input:not([type=range])"))
      return;
    const frames = resultOf(active()).clip?.frames.length ?? 0;
    if (event.key === "[" || event.key === "]") change(() => stepLayer(event.key === "]" ? 1 : -1));
    else if (frames && (event.key === "," || event.key === "."))
      change(() => (state.frame = Math.min(Math.max(state.frame + (event.key === "." ? 1 : -1), 0), frames - 1)));
    else if (event.key === "p") $("play").click();
    else if (event.key === "Escape" && state.selected)
      change(() => Object.assign(state, { selected: null, cell: null }));
  });
}

/** Open a second panel, or close one. The second shows the next question, or the same query in the last layer. */
function toggleCompare() {
  if (state.panels.length > 1) state.panels = [active()];
  else {
    const first = state.panels[0],
      nextResult = DATA.results.length > 1 ? (first.result + 1) % DATA.results.length : first.result;
    const second = nextResult === first.result ? { ...first, head: null } : newPanel(nextResult);
    if (nextResult === first.result) chooseSource(second, mapOf(second).sources.length - 1);
    state.panels = [first, second];
  }
  Object.assign(state, { active: state.panels.length - 1, cell: null, selected: null });
  buildPanels();
}

function drawWords() {
  const panel = active(),
    result = resultOf(panel),
    isAttention = mapOf(panel).name === "attention";
  for (const name of ["question", "answer"]) {
    const pieces = result.pieces[name].map(([text, row]) => {
      if (row === null) return text;
      const button = make("button", { type: "button", class: "word" }, text);
      button.dataset.row = row;
      button.setAttribute("aria-pressed", String(isAttention && panel.row === row));
      button.addEventListener("click", () => change(() => chooseRow(state.active, row)));
      return button;
    });
    $(name).replaceChildren(...(pieces.length ? pieces : [t("no_answer")]));
  }
  $("supplied").textContent = supplied(result);
  const queries = [...result.rows.entries()].filter(([, row]) => !row.kind.endsWith(" word"));
  const choose = (number) => () => chooseRow(state.active, number);
  const chips = queries.map(([number, row]) => {
    return chip(t(`q_${row.kind}`, row.text), isAttention && panel.row === number, choose(number));
  });
  $("queries").replaceChildren(...chips);
}

/** The model's own answer where the answer was supplied; otherwise empty. */
const supplied = ({ own_answer: own }) => (own === null ? "" : ` (${t("supplied", isolate(own || t("no_answer")))})`);

function chip(text, pressed, choose) {
  const button = make("button", { type: "button" }, text);
  button.setAttribute("aria-pressed", String(pressed));
  button.addEventListener("click", () => change(choose));
  return button;
}

/** Label of a question in the list of questions; questions with the same text get more details. */
function questionName(result, number) {
  const othersBy = (label) => DATA.results.map(label).filter((_, i) => i !== number);
  const detailed = ({ maps, headline, clip, question, media }) => {
    const { sources, name } = maps[headline],
      layers = layersName(sources[0].layers);
    const mode = clip && clip.way !== "clip" ? [clip.way] : [];
    return [question, media[0].name, headline ? t("method", name) : layers, ...mode].join(" · ");
  };
  if (!othersBy((other) => other.question).includes(result.question)) return result.question;
  const name = detailed(result);
  return othersBy(detailed).includes(name) ? `${name} (${number + 1})` : name;
}

function drawQuestions() {
  $("questions").hidden = DATA.results.length < 2;
  $("questions").replaceChildren(
    ...DATA.results.map((result, number) => {
      const panels = [...state.panels.entries()].filter(([, panel]) => panel.result === number).map(([i]) => "AB"[i]);
      const button = chip(questionName(result, number), active().result === number, () => {
        state.panels[state.active] = newPanel(number);
        Object.assign(state, { cell: null, selected: null });
        buildPanels();
      });
      if (state.panels.length > 1 && panels.length) button.append(make("sup", {}, panels.join(" ")));
      return button;
    }),
  );
}

function drawLayers() {
  const panel = active(),
    result = resultOf(panel),
    map = mapOf(panel),
    first = firstLayer(map),
    layers = layersOf(map),
    slider = $("layer");
  $("map-line").hidden = result.maps.length < 2;
  const names = result.maps.map(({ name }) => name);
  if ($("map").options.length !== names.length || names.some((name, i) => $("map").options[i].text !== name)) {
    $("map").replaceChildren(...names.map((name, number) => make("option", { value: number }, name)));
  }
  $("map").value = panel.map;
  const averages = [...map.sources.entries()].filter(([, source]) => source.id !== "layer");
  const chips = averages.map(([number, source]) => {
    const pressed = panel.source === number && !panel.head;
    return chip(sourceName(result, panel.map, source), pressed, () => chooseSource(panel, number));
  });
  $("sources").replaceChildren(...chips);
  const single = first >= 0 && panel.source >= first && !panel.head;
  slider.max = Math.max(layers.length - 1, 0);
  slider.disabled = $("play").disabled = !layers.length;
  $("layer-line").hidden = !layers.length;
  if (!layers.length) players.layers.stop();
  if (single) slider.value = panel.source - first;
  slider.classList.toggle("idle", !single);
  slider.setAttribute("aria-valuetext", single ? `${t("layer")} ${map.sources[panel.source].layers[0]}` : "–");
  $("layer-told").textContent = single ? String(map.sources[panel.source].layers[0]) : "–";
  drawShares(panel, map, layers, single ? panel.source - first : -1);
}

/** Draw one bar per layer: the share on the picture. */
function drawShares(panel, map, layers, chosen) {
  $("shares").hidden = $("shares-hint").hidden = map.name !== "attention" || layers.length < 2;
  const masses = layers.map((source) => source.mass[panel.row] ?? 0),
    highest = Math.max(...masses, 1e-9);
  const svg = makeSvg("svg", {
    "viewBox": `0 0 ${layers.length} 10`,
    "preserveAspectRatio": "none",
    "aria-hidden": "true",
  });
  layers.forEach((source, number) => {
    const mass = masses[number],
      height = Math.max((9.6 * mass) / highest, 0.15);
    svg.append(
      makeSvg("rect", {
        x: number + 0.1,
        y: 10 - height,
        width: 0.8,
        height,
        class: number === chosen ? "chosen" : "",
      }),
    );
    const area = makeSvg(
      "rect",
      { x: number, y: 0, width: 1, height: 10, class: "area" },
      makeSvg("title", {}, `${t("layer")} ${source.layers[0]}: ${percent(mass)}`),
    );
    area.addEventListener("click", () => change(() => chooseSource(panel, firstLayer(map) + number)));
    svg.append(area);
  });
  $("shares").replaceChildren(svg);
}

function drawHeads() {
  const panel = active(),
    { heads } = resultOf(panel).maps[0],
    by = $("heads-by").value;
  $("heads-card").hidden = !heads;
  if (!heads) return;
  const describeHead = (layer, head) =>
    `${t("head_of", heads.layers[layer], heads.numbers[head])}: ${percent(heads[by][layer][head])}`;
  drawMatrix($("heads"), {
    values: heads[by],
    layers: heads.layers,
    heads: heads.numbers,
    chosen: panel.head,
    label: t("heads"),
    describe: describeHead,
    pick: (layer, head) => change(() => Object.assign(panel, { map: 0, source: 0, row: 0, head: [layer, head] })),
  });
  const ends = t("heads_ends", ...endsOf(heads[by]).map(percent));
  setText($("heads-told"), `${panel.head ? describeHead(...panel.head) : t("heads_hint")} ${ends}`);
}
