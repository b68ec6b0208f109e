// What can be clicked, slid and typed: each changes `state` through `change`, and is drawn from it.

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

const firstLayer = (map) => map.sources.findIndex((source) => source.id === "layer");
const layersOf = (map) => map.sources.filter((source) => source.id === "layer");

/** Show a row: a word, or a query as a whole. Words are those of the plain attention. */
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

function stepLayer(by, around = false) {
  const panel = active(), map = mapOf(panel), first = firstLayer(map), count = layersOf(map).length;
  if (first < 0) return;
  const at = panel.source >= first && !panel.head ? panel.source - first + by : by > 0 ? 0 : count - 1;
  chooseSource(panel, first + (around ? (at + count) % count : Math.min(Math.max(at, 0), count - 1)));
}

/** A button that plays until it is pressed again, or the page is left. */
function player(button, milliseconds, step) {
  let timer = null;
  button.addEventListener("click", () => {
    timer = timer === null ? setInterval(() => change(step), milliseconds) : void clearInterval(timer) ?? null;
    button.setAttribute("aria-pressed", String(timer !== null));
    button.dataset.t = timer === null ? "play" : "stop";
    button.textContent = t(button.dataset.t);
  });
}

function listen() {
  $("layer").addEventListener("input", () => change(() => chooseSource(active(), firstLayer(mapOf(active())) + Number($("layer").value))));
  player($("play"), 600, () => stepLayer(1, true));
  player($("film-play"), 500, () => {
    const clip = resultOf(active()).clip;
    if (clip) state.frame = (state.frame + 1) % clip.frames.length;
  });
  $("map").addEventListener("change", () => change(() => chooseMap(active(), Number($("map").value))));
  $("alpha").addEventListener("input", () => change(() => (state.alpha = Number($("alpha").value))));
  for (const name of ["colormap", "interp", "scale"]) $(name).addEventListener("change", () => change(() => (state[name] = $(name).value)));
  $("frame").addEventListener("input", () => change(() => (state.frame = Number($("frame").value))));
  for (const name of ["heads-by", "faith-kind", "faith-fill"]) $(name).addEventListener("change", () => change(() => {}));
  $("compare").addEventListener("click", () => change(toggleCompare));
  $("save").addEventListener("click", saveView);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, textarea, input:not([type=range])")) return;
    const frames = resultOf(active()).clip?.frames.length ?? 0;
    if (event.key === "[" || event.key === "]") change(() => stepLayer(event.key === "]" ? 1 : -1));
    else if (frames && (event.key === "," || event.key === ".")) change(() => (state.frame = Math.min(Math.max(state.frame + (event.key === "." ? 1 : -1), 0), frames - 1)));
    else if (event.key === "p") $("play").click();
    else if (event.key === "Escape" && state.kept) change(() => Object.assign(state, { kept: null, cell: null }));
  });
}

/** A second panel: of several questions the next one, else the same words in the last layer. */
function toggleCompare() {
  if (state.panels.length > 1) state.panels = [active()];
  else {
    const first = state.panels[0], other = DATA.results.length > 1 ? (first.result + 1) % DATA.results.length : first.result;
    const second = other === first.result ? { ...first, head: null } : newPanel(other);
    if (other === first.result) chooseSource(second, mapOf(second).sources.length - 1);
    state.panels = [first, second];
  }
  Object.assign(state, { active: state.panels.length - 1, cell: null, kept: null });
  buildPanels();
}

function drawWords() {
  const panel = active(), result = resultOf(panel), plain = mapOf(panel).name === "attention" && !panel.head;
  for (const name of ["question", "answer"]) {
    const pieces = result.pieces[name].map(([text, row]) => {
      if (row === null) return text;
      const button = make("button", { type: "button", class: "word" }, text);
      button.dataset.row = row;
      button.setAttribute("aria-pressed", String(plain && panel.row === row));
      button.addEventListener("click", () => change(() => chooseRow(state.active, row)));
      return button;
    });
    $(name).replaceChildren(make("span", { class: "who" }, t(name)), ...(pieces.length ? pieces : [t("no_answer")]));
  }
  if (result.own_answer !== null) $("answer").append(make("small", {}, ` (${t("supplied", result.own_answer || t("no_answer"))})`));
  const queries = [...result.rows.entries()].filter(([, row]) => !row.kind.endsWith(" word"));
  $("queries").replaceChildren(...queries.map(([number, row]) => chip(t(`q_${row.kind}`, row.text), plain && panel.row === number, () => chooseRow(state.active, number))));
}

function chip(text, pressed, choose) {
  const button = make("button", { type: "button" }, text);
  button.setAttribute("aria-pressed", String(pressed));
  button.addEventListener("click", () => change(choose));
  return button;
}

function drawQuestions() {
  $("questions").hidden = DATA.results.length < 2;
  $("questions").replaceChildren(...DATA.results.map((result, number) => {
    const panels = [...state.panels.entries()].filter(([, panel]) => panel.result === number).map(([at]) => "AB"[at]);
    const twin = DATA.results.some((other, at) => at !== number && other.question === result.question);
    const told = [result.question, ...(twin ? [result.media[0].name, describe(newPanel(number))] : [])].join(" · ");
    const button = chip(told, active().result === number, () => {
      state.panels[state.active] = newPanel(number);
      Object.assign(state, { cell: null, kept: null });
      buildPanels();
    });
    if (state.panels.length > 1 && panels.length) button.append(make("sup", {}, panels.join(" ")));
    return button;
  }));
}

function drawLayers() {
  const panel = active(), result = resultOf(panel), map = mapOf(panel), first = firstLayer(map), layers = layersOf(map), slider = $("layer");
  $("map-line").hidden = result.maps.length < 2;
  $("map").replaceChildren(...result.maps.map((one, number) => make("option", { value: number, selected: number === panel.map }, one.name)));
  const averages = [...map.sources.entries()].filter(([, source]) => source.id !== "layer");
  const named = (source) => (source.id === "all" ? t("all_layers") : source.layers.length ? `${t("headline")} (${ranges(source.layers)})` : t("headline"));
  $("sources").replaceChildren(...averages.map(([number, source]) => chip(named(source), panel.source === number && !panel.head, () => chooseSource(panel, number))));
  const single = first >= 0 && panel.source >= first && !panel.head;
  slider.max = Math.max(layers.length - 1, 0);
  slider.disabled = $("play").disabled = !layers.length;
  if (single) slider.value = panel.source - first;
  slider.classList.toggle("idle", !single);
  slider.setAttribute("aria-valuetext", single ? `${t("layer")} ${map.sources[panel.source].layers[0]}` : "–");
  $("layer-told").textContent = single ? String(map.sources[panel.source].layers[0]) : "–";
  drawShares(panel, map, layers, single ? panel.source - first : -1);
}

/** Bars of the share on the picture, a layer each. */
function drawShares(panel, map, layers, chosen) {
  $("shares").hidden = $("shares-hint").hidden = map.name !== "attention" || layers.length < 2;
  const most = Math.max(...layers.map((source) => source.mass[Math.min(panel.row, source.rows - 1)]), 1e-9);
  const svg = draw("svg", { viewBox: `0 0 ${layers.length} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
  layers.forEach((source, number) => {
    const mass = source.mass[Math.min(panel.row, source.rows - 1)], height = Math.max((9.6 * mass) / most, 0.15);
    svg.append(draw("rect", { x: number + 0.1, y: 10 - height, width: 0.8, height, class: number === chosen ? "chosen" : "" }));
    const area = draw("rect", { x: number, y: 0, width: 1, height: 10, class: "area" }, draw("title", {}, `${t("layer")} ${source.layers[0]}: ${percent(mass)}`));
    area.addEventListener("click", () => change(() => chooseSource(panel, firstLayer(map) + number)));
    svg.append(area);
  });
  $("shares").replaceChildren(svg);
}

function drawHeads() {
  const panel = active(), map = resultOf(panel).maps[0], heads = map.heads, by = $("heads-by").value;
  $("heads-card").hidden = !heads;
  if (!heads) return;
  const had = $("heads").contains(document.activeElement);
  const words = (layer, head) => `${t("head_of", heads.layers[layer], heads.numbers[head])}: ${percent(heads[by][layer][head])}`;
  $("heads").replaceChildren(matrix({
    values: heads[by], layers: heads.layers, heads: heads.numbers, chosen: panel.head, label: t("heads"), words,
    pick: (layer, head) => change(() => Object.assign(panel, { map: 0, source: 0, row: 0, head: [layer, head] })),
  }));
  if (had) $("heads").querySelector("[tabindex='0']").focus();
  $("heads-told").textContent = `${panel.head ? words(...panel.head) : t("heads_hint")} ${t("heads_ends", ...endsOf(heads[by]).map(percent))}`;
}
