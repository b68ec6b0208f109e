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
  $("head").addEventListener("change", () => change(() => chooseHeadOfLayer($("head").value)));
  listenToColours(() => change(() => {}));
  $("scale").addEventListener("change", () => change(() => (state.scale = $("scale").value)));
  $("frame").addEventListener("input", () => change(() => (state.frame = Number($("frame").value))));
  for (const name of ["heads-by", "faith-kind", "faith-fill"])
    $(name).addEventListener("change", () => change(() => {}));
  $("compare").addEventListener("click", () => change(toggleCompare));
  $("input").addEventListener("click", () => change(() => (state.input = !state.input)));
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
    else if (event.key === "Escape" && (state.selected || state.cell)) change(clearSelection);
  });
}

/** Show a single head of the layer that is shown, by index, or the map's own join. */
function chooseHeadOfLayer(head) {
  const panel = active();
  if (head === "") panel.head = null;
  else if (headNow(panel) !== Number(head)) chooseHead(panel, headLayer(panel), Number(head));
}

/** Open a second panel, or close one. The second shows the next result, or the same query in the last layer. */
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

function chip(text, pressed, choose) {
  const button = make("button", { type: "button" }, text);
  button.setAttribute("aria-pressed", String(pressed));
  button.addEventListener("click", () => change(choose));
  return button;
}

/** Label of a result in the list of results: its title; if others have the same, what its kind says besides. */
function resultName(result, number) {
  const others = DATA.results.filter((_, i) => i !== number);
  if (others.every((other) => other.title !== result.title)) return result.title;
  const detailed = (each) => inKind(each, () => [each.title, ...(kindOf(each).details?.(each) ?? [])].join(" · ")),
    name = detailed(result);
  return others.some((other) => detailed(other) === name) ? `${name} (${number + 1})` : name;
}

function drawResults() {
  $("results").hidden = DATA.results.length < 2;
  $("results").replaceChildren(
    ...DATA.results.map((result, number) => {
      const panels = [...state.panels.entries()].filter(([, panel]) => panel.result === number).map(([i]) => "AB"[i]);
      const button = chip(resultName(result, number), active().result === number, () => {
        state.panels[state.active] = newPanel(number);
        Object.assign(state, { cell: null, selected: null });
        buildPanels();
      });
      if (state.panels.length > 1 && panels.length) button.append(make("sup", {}, panels.join(" ")));
      return button;
    }),
  );
}

/** Draw the buttons of the queries; words are chosen in their texts. */
function drawQueries() {
  const panel = active(),
    result = resultOf(panel);
  const queries = [...result.rows.entries()].filter(([, row]) => !row.is_word);
  const chips = queries.map(([number, row]) => {
    const pressed = panel.row === number && hasRow(mapOf(panel), number);
    return chip(rowText("q", row), pressed, () => {
      chooseRow(state.active, number);
      if (result.cell_rows) state.selected = null;
    });
  });
  $("queries").replaceChildren(...chips, ...(kindOf(result).chips?.(panel) ?? []));
  setText($("queries-hint"), (kindOf(result).hint ?? (() => ""))(panel));
  $("queries-hint").hidden = !$("queries-hint").textContent;
}

function drawLayers() {
  const panel = active(),
    result = resultOf(panel),
    map = mapOf(panel),
    source = sourceOf(panel),
    first = firstLayer(map),
    layers = layersOf(map),
    slider = $("layer");
  $("map-line").hidden = result.maps.length < 2;
  const nameOf = kindOf(result).mapName ?? ((each) => each.name);
  fillList(
    $("map"),
    [...result.maps.entries()].map(([number, each]) => [String(number), nameOf(each)]),
    String(panel.map),
  );
  const averages = [...map.sources.entries()].filter(([, each]) => each.id !== "layer");
  const chips = averages.map(([number, each]) =>
    chip(sourceName(result, panel.map, each), panel.source === number, () => chooseSource(panel, number)),
  );
  $("sources").replaceChildren(...chips);
  const single = source.id === "layer",
    name = single ? layerName(source.layers[0]) : "–";
  slider.max = Math.max(layers.length - 1, 0);
  slider.disabled = $("play").disabled = !layers.length;
  $("layer-line").hidden = !layers.length;
  if (!layers.length) players.layers.stop();
  if (single) slider.value = panel.source - first;
  slider.classList.toggle("idle", !single);
  slider.setAttribute("aria-valuetext", single && source.layers[0] >= 0 ? `${t("layer")} ${name}` : name);
  $("layer-value").textContent = name;
  drawHeadList(panel);
  drawShares(panel, map, layers, single ? panel.source - first : -1);
}

/** List the single heads of the layer that is shown. */
function drawHeadList(panel) {
  const { heads } = resultOf(panel).maps[0],
    numbers = headLayer(panel) >= 0 ? heads.numbers : [];
  $("head-line").hidden = !heads || mapOf(panel).kind !== "attention";
  const options = numbers.map((number, head) => [String(head), t("head_n", number)]);
  fillList($("head"), [["", t("all_heads")], ...options], String(headNow(panel) ?? ""));
  $("head").disabled = !options.length;
}

/** Draw one bar per layer: the share on the picture. */
function drawShares(panel, map, layers, chosen) {
  const masses = layers.map((source) => source.mass?.[panel.row] ?? 0),
    highest = Math.max(...masses, 1e-9);
  // Where all attention is on the picture, as without other tokens, there is nothing to compare.
  $("shares").hidden = $("shares-hint").hidden =
    map.kind !== "attention" ||
    layers.length < 2 ||
    !(Math.min(...masses) < 0.9995) ||
    layers[0].mass?.[panel.row] === undefined;
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

function drawViewControls() {
  const result = resultOf(active());
  drawColours();
  $("scale").value = state.scale;
  $("compare").setAttribute("aria-pressed", String(state.panels.length > 1));
  const hasInput = result.media.some((medium) => medium.inputs),
    hints = [...(hasInput ? [t("input_hint")] : []), ...(result.media.some(isCropped) ? [t("veiled")] : [])];
  $("input").hidden = !hasInput;
  $("input").setAttribute("aria-pressed", String(state.input));
  $("input-hint").textContent = hints.join(" ");
  $("input-hint").hidden = !hints.length;
}
