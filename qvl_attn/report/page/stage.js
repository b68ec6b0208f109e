// The panels: pictures with the map over them, the cell that is pointed at, the scale beneath. Draws `state`, changes none
// of it but the cell.

const state = {
  panels: [], active: 0, alpha: 0.5, colormap: "inferno", interp: "linear", scale: "own", frame: 0,
  cell: null, // {panel, index}: pointed at
  kept: null, // the same, clicked
};

const newPanel = (result, source = 0) => ({ result, map: DATA.results[result].headline, source, row: 0, head: null });
const resultOf = (panel) => DATA.results[panel.result];
const mapOf = (panel) => resultOf(panel).maps[panel.map];
const cellsOf = (medium) => medium.grid[0] * medium.grid[1] * medium.grid[2];
const totalOf = (result) => sum(result.media.map(cellsOf));
const active = () => state.panels[state.active];

/** Where the numbers of what a panel shows are: the block and row of its values, its share and its scales. */
function shownBy(panel) {
  const map = mapOf(panel);
  if (panel.head) {
    const [layer, head] = panel.head, heads = map.heads;
    return { block: heads.blocks[layer], row: head, mass: heads.mass[layer][head], high: heads.high[layer][head], shared: heads.shared };
  }
  const source = map.sources[panel.source];
  const coarse = { block: map.coarse, row: source.coarse_at + panel.row };
  return { block: source.block, row: panel.row, coarse, mass: source.mass[panel.row], high: source.high[panel.row], shared: map.shared[panel.row] };
}

/** The value of every cell, and whether these are the values themselves or coarse means that stand in for them. */
function valuesOf(panel) {
  const shown = shownBy(panel), values = rowOf(shown.block, shown.row);
  if (values) return { values, fine: true };
  if (!shown.coarse) return { values: new Float32Array(totalOf(resultOf(panel))), fine: false };
  return { values: spread(rowOf(shown.coarse.block, shown.coarse.row), resultOf(panel)), fine: false };
}

/** Coarse means over the cells that they are the means of. */
function spread(coarse, result) {
  const values = new Float32Array(totalOf(result)), side = DATA.cells_a_side;
  let at = 0, start = 0;
  for (const { grid: [steps, rows, columns] } of result.media) {
    const wide = Math.ceil(columns / side), many = Math.ceil(rows / side) * wide;
    for (let step = 0; step < steps; step++, start += many) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) values[at++] = coarse[start + Math.floor(row / side) * wide + Math.floor(column / side)];
      }
    }
  }
  return values;
}

/** Which picture a cell is of, its step, row and column, and its box in the picture's pixels. */
function placeOf(result, index) {
  for (const [number, medium] of result.media.entries()) {
    const [, rows, columns] = medium.grid;
    if (index < cellsOf(medium)) {
      const row = Math.floor(index / columns) % rows, column = index % columns;
      const box = [medium.xs[column], medium.ys[row], medium.xs[column + 1], medium.ys[row + 1]];
      return { number, step: Math.floor(index / (rows * columns)), row, column, box };
    }
    index -= cellsOf(medium);
  }
  return null;
}

/** The first cell of what is shown of a picture: of a clip, of the step of the frame. */
function startOf(result, number) {
  const before = sum(result.media.slice(0, number).map(cellsOf)), [, rows, columns] = result.media[number].grid;
  return before + stepNow(result) * rows * columns;
}

const stepNow = (result) => (result.clip ? result.clip.step_of[frameNow(result)] : 0);
const frameNow = (result) => Math.min(state.frame, result.clip.frames.length - 1);

function highOf(panel, values) {
  if (state.scale === "shared") return Math.max(...state.panels.map((one) => shownBy(one).shared));
  if (state.scale === "frame" && resultOf(panel).clip) {
    const start = startOf(resultOf(panel), 0), [, rows, columns] = resultOf(panel).media[0].grid;
    return scaleHigh(values.subarray(start, start + rows * columns));
  }
  return shownBy(panel).high;
}

/** Build the panels anew: there are others, or other pictures. */
function buildPanels() {
  $("panels").className = state.panels.length > 1 ? "two" : "one";
  $("panels").replaceChildren(...state.panels.map(buildPanel));
}

function buildPanel(panel, number) {
  const result = resultOf(panel), name = "AB"[number];
  const pick = make("button", { type: "button", class: "pick", hidden: state.panels.length < 2 }, name);
  pick.setAttribute("aria-label", t("a_panel", name));
  pick.addEventListener("click", () => change(() => (state.active = number)));
  const pictures = result.media.map((medium, which) => {
    const [width, height] = medium.drawn_px;
    const figure = make("figure", { class: "picture", tabIndex: 0, role: "application" },
      make("img", { alt: "", src: medium.picture === null ? "" : pictureUrl(medium.picture), width, height, draggable: false }),
      make("canvas", { width, height }),
      draw("svg", { viewBox: `0 0 ${medium.size_px.join(" ")}`, preserveAspectRatio: "none", "aria-hidden": "true" }));
    figure.style.flexGrow = String(width / height);
    figure.style.aspectRatio = `${width} / ${height}`;
    const cellAt = (event) => {
      const box = figure.getBoundingClientRect(), [, rows, columns] = medium.grid;
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      const [row, column] = [Math.floor(y * rows), Math.floor(x * columns)];
      if (row < 0 || column < 0 || row >= rows || column >= columns) return null;
      return { panel: number, index: startOf(result, which) + row * columns + column };
    };
    figure.addEventListener("pointermove", (event) => pointAt(cellAt(event)));
    figure.addEventListener("pointerleave", () => pointAt(null));
    figure.addEventListener("click", (event) => change(() => {
      state.active = number;
      const cell = cellAt(event);
      state.kept = state.kept?.index === cell?.index && state.kept?.panel === number ? null : cell;
    }));
    figure.addEventListener("keydown", (event) => walk(event, number, which));
    return figure;
  });
  const row = make("div", { class: "pictures" }, ...pictures);
  row.style.maxWidth = `calc(74vh * ${sum(result.media.map((medium) => medium.drawn_px[0] / medium.drawn_px[1]))})`;
  return make("section", { class: "panel card" },
    make("h2", {}, pick, make("span", { class: "what" })),
    row,
    make("div", { class: "scale" }, make("span", {}, "0"), make("canvas", { width: 256, height: 12, class: "bar" }), make("span", { class: "high" })),
    make("p", { class: "hint told" }), make("p", { class: "hint share" }));
}

/** The arrow keys move from cell to cell of a picture. */
function walk(event, number, which) {
  const result = resultOf(state.panels[number]), [, rows, columns] = result.media[which].grid;
  const start = startOf(result, which), moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const here = state.cell?.panel === number && state.cell.index >= start && state.cell.index < start + rows * columns
    ? state.cell.index - start : null;
  if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = here === null ? 0 : Math.min(Math.max(Math.floor(here / columns) + down, 0), rows - 1);
    const column = here === null ? 0 : Math.min(Math.max((here % columns) + right, 0), columns - 1);
    pointAt({ panel: number, index: start + row * columns + column });
  } else if (event.key === "Enter" && state.cell) change(() => Object.assign(state, { active: number, kept: state.cell }));
  else if (event.key === "Escape") change(() => Object.assign(state, { kept: null, cell: null }));
  else return;
  event.preventDefault();
}

function pointAt(cell) {
  state.cell = cell;
  drawMarks();
  inspect();
}

function drawPanels() {
  state.panels.forEach((panel, number) => {
    const result = resultOf(panel), { values, fine } = valuesOf(panel), shown = shownBy(panel), high = highOf(panel, values);
    const section = $("panels").children[number], what = describe(panel);
    section.classList.toggle("active", state.panels.length > 1 && number === state.active);
    section.classList.toggle("coarse", !fine);
    section.querySelector(".what").textContent = what;
    section.querySelector(".pick").setAttribute("aria-pressed", String(number === state.active));
    result.media.forEach((medium, which) => {
      const figure = section.querySelectorAll(".picture")[which], [, rows, columns] = medium.grid, start = startOf(result, which);
      if (result.clip) {
        const url = pictureUrl(result.clip.frames[frameNow(result)]), img = figure.querySelector("img");
        if (img.getAttribute("src") !== url) img.src = url;
      }
      const canvas = figure.querySelector("canvas");
      canvas.style.opacity = shown.mass > 0 ? state.alpha : 0;
      paint(canvas, values.subarray(start, start + rows * columns), rows, columns, high, state.colormap, state.interp);
      figure.setAttribute("aria-label", t("picture_label", medium.name, what));
    });
    paintBar(section.querySelector(".bar"), state.colormap);
    const uniform = shown.mass / values.length, above = values.filter((value) => value > high * (1 + 1e-3)).length;
    section.querySelector(".high").textContent = compact(high);
    section.querySelector(".told").textContent = shown.mass > 0 ? t("high", compact(high), even(high / uniform), above, values.length) : t("empty");
    const { name, share: ofMethod } = mapOf(panel), known = name === "attention" ? shown.mass : panel.source === 0 ? ofMethod : null;
    const share = known === null ? t("unscaled") : t("share", percent(known));
    section.querySelector(".share").textContent = mapOf(panel).removed.length ? `${share} · ${t("removed")}` : share;
  });
}

/** Outlines of the cells that are pointed at and kept, and crosses over those that a method took out. */
function drawMarks() {
  state.panels.forEach((panel, number) => {
    const result = resultOf(panel);
    $("panels").children[number].querySelectorAll(".picture svg").forEach((svg, which) => {
      const marks = [], step = stepNow(result);
      const add = (index, kind) => {
        const place = placeOf(result, index);
        if (!place || place.number !== which || place.step !== step) return;
        const [x0, y0, x1, y1] = place.box;
        if (kind === "cross") {
          const [w, h] = [(x1 - x0) / 4, (y1 - y0) / 4];
          marks.push(draw("path", { d: `M${x0 + w},${y0 + h}L${x1 - w},${y1 - h}M${x0 + w},${y1 - h}L${x1 - w},${y0 + h}`, class: "cross" }));
        } else for (const under of ["under ", ""]) marks.push(draw("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: under + kind }));
      };
      for (const index of mapOf(panel).removed) add(index, "cross");
      if (state.kept && sameCells(state.kept.panel, number)) add(state.kept.index, "kept");
      if (state.cell && sameCells(state.cell.panel, number)) add(state.cell.index, "pointed");
      svg.replaceChildren(...marks);
    });
  });
}

/** Whether two panels have the same cells, so that one is marked in both. */
const sameCells = (one, other) => one === other || (state.panels[one] && JSON.stringify(resultOf(state.panels[one]).media.map((m) => [m.picture, m.grid])) === JSON.stringify(resultOf(state.panels[other]).media.map((m) => [m.picture, m.grid])));

/** What a panel shows, in words. */
function describe(panel) {
  const result = resultOf(panel), map = mapOf(panel), row = result.rows[panel.row], source = map.sources[panel.source];
  const of = t("of_layers", result.layer_count - 1);
  const asked = t(`t_${row.kind}`, ...(row.kind === "question" || row.kind === "answer" ? [row.tokens] : [row.text, row.tokens]));
  if (panel.head) return `${t("head_of", map.heads.layers[panel.head[0]], map.heads.numbers[panel.head[1]])} · ${t(`t_${result.rows[0].kind}`, ...headWords(result.rows[0]))}`;
  if (map.name !== "attention") {
    const label = source.id === "layer" ? ` · ${view.language === "en" ? map.layer_label : t("layer")} ${source.layers[0]}` : "";
    return `${t("method", map.name)}${label} · ${map.caption}${map.follows_query ? ` · ${asked}` : ""}`;
  }
  const heads = source.id === "headline" && map.heads_of !== "all" ? t("heads_named", map.heads_of) : t("mean_heads", result.head_count);
  const layers = source.layers.length === 1 ? t("layer_of", source.layers[0]) : t("layers_of", ranges(source.layers));
  return `${layers} ${of} · ${asked} · ${heads}`;
}

const headWords = (row) => (row.kind === "question" || row.kind === "answer" ? [row.tokens] : [row.text, row.tokens]);
