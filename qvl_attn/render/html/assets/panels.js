// The panels: pictures with their maps, the pointed and the selected cell, and the scale.

// Up to this many pictures stand in one row; more are wrapped.
const MAX_IN_ROW = 3;

/** Build the panels again, after their number or pictures changed. */
function buildPanels() {
  $("panels").className = state.panels.length > 1 ? "two" : "one";
  $("panels").replaceChildren(...state.panels.map(buildPanel));
}

function buildPanel(panel, number) {
  const result = resultOf(panel),
    name = "AB"[number];
  const pick = make("button", { type: "button", class: "pick", hidden: state.panels.length < 2 }, name);
  pick.setAttribute("aria-label", t("a_panel", name));
  pick.addEventListener("click", () => change(() => (state.active = number)));
  const pictures = result.media.map((medium, mediaIndex) => {
    const [width, height] = medium.drawn_px,
      figure = buildPicture(medium);
    figure.tabIndex = 0;
    figure.setAttribute("role", "application");
    const cellAt = (event) => {
      const cell = cellUnder(event, figure, medium);
      return cell === null ? null : { panel: number, index: startOf(result, mediaIndex) + cell };
    };
    figure.addEventListener("pointermove", (event) => pointAt(cellAt(event)));
    figure.addEventListener("pointerleave", () => pointAt(null));
    // A click has whole pixels, which may lie in another cell than the pointer, so the cell of the press is taken.
    let pressed = null;
    figure.addEventListener("pointerdown", (event) => (pressed = cellAt(event)));
    figure.addEventListener("click", (event) => {
      const cell = pressed ?? cellAt(event);
      pressed = null;
      change(() => selectCell(number, cell));
    });
    figure.addEventListener("keydown", (event) => moveByKey(event, number, mediaIndex));
    const item = make("div", { class: "shot" }, figure);
    if (result.media.length > 1) item.append(make("small", {}, `${mediaIndex + 1} · ${medium.name}`));
    item.style.flexGrow = String(width / height);
    if (result.media.length > 1) item.style.minWidth = `max(64px, ${Math.round((40 * width) / height)}px)`;
    return item;
  });
  const row = make("div", { class: result.media.length > MAX_IN_ROW ? "pictures many" : "pictures" }, ...pictures);
  if (result.media.length <= MAX_IN_ROW) row.style.maxWidth = `calc(74vh * ${sum(result.media.map(aspectOf))})`;
  return make(
    "section",
    { class: "panel card" },
    make("h2", {}, pick, make("span", { class: "what" })),
    row,
    make("p", { class: "hint notice", role: "status", hidden: true }),
    make(
      "div",
      { class: "scale" },
      make("span", {}, "0"),
      make("canvas", { width: 256, height: 12, class: "bar" }),
      make("span", { class: "high" }),
    ),
    make("p", { class: "hint ends" }),
    make("p", { class: "hint share" }),
  );
}

/** The step's row and column of the cell under the pointer, or null. */
function cellUnder(event, figure, medium) {
  const box = figure.getBoundingClientRect(),
    [, rows, columns] = medium.grid,
    [x0, y0, x1, y1] = regionOf(medium);
  const x = ((event.clientX - box.left) / box.width) * medium.size_px[0],
    y = ((event.clientY - box.top) / box.height) * medium.size_px[1];
  const [row, column] = [Math.floor(((y - y0) / (y1 - y0)) * rows), Math.floor(((x - x0) / (x1 - x0)) * columns)];
  return row < 0 || column < 0 || row >= rows || column >= columns ? null : row * columns + column;
}

/** Select a cell of a panel, or unselect it if it is selected; a kind of result may do so in its own way. */
function selectCell(number, cell) {
  state.active = number;
  if (!cell) return;
  const select = kindOf(resultOf(state.panels[number])).select ?? toggleCell;
  select(number, cell);
}

function toggleCell(number, cell) {
  const { selected } = state;
  state.selected = selected?.index === cell.index && selected.panel === number ? null : cell;
}

/** Unselect the cell, and show the queries in whose place its rows were shown. */
function clearSelection() {
  Object.assign(state, { selected: null, cell: null });
  for (const panel of state.panels) {
    if (panel.row >= resultOf(panel).rows.length) {
      const { map, row, head } = panel.query;
      if (panel.map !== map) chooseMap(panel, map);
      Object.assign(panel, { row, head });
    }
  }
}

/** Move from cell to cell of a picture with the arrow keys; Enter or space selects, Escape clears. */
function moveByKey(event, number, mediaIndex) {
  const result = resultOf(state.panels[number]),
    [, rows, columns] = result.media[mediaIndex].grid;
  const start = startOf(result, mediaIndex),
    moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const current =
    state.cell?.panel === number && state.cell.index >= start && state.cell.index < start + rows * columns
      ? state.cell.index - start
      : null;
  if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = current === null ? 0 : Math.min(Math.max(Math.floor(current / columns) + down, 0), rows - 1);
    const column = current === null ? 0 : Math.min(Math.max((current % columns) + right, 0), columns - 1);
    pointAt({ panel: number, index: start + row * columns + column });
  } else if ((event.key === "Enter" || event.key === " ") && state.cell?.panel === number)
    change(() => selectCell(number, state.cell));
  else return;
  event.preventDefault();
}

function pointAt(cell) {
  state.cell = cell;
  drawMarks();
  inspect();
}

function showImage(image, picture) {
  const url = pictureUrl(picture);
  if (image.getAttribute("src") !== url) image.src = url;
}

function drawPanels() {
  state.panels.forEach((panel, number) => inKind(resultOf(panel), () => drawPanel(panel, number)));
}

function drawPanel(panel, number) {
  const section = $("panels").children[number],
    result = resultOf(panel),
    description = describe(panel);
  const { values, fine } = valuesOf(panel),
    high = highOf(panel, values),
    isEmpty = entryOf(panel).mass <= 0;
  section.classList.toggle("active", state.panels.length > 1 && number === state.active);
  section.classList.toggle("coarse", !fine);
  section.querySelector(".what").textContent = description;
  section.querySelector(".pick").setAttribute("aria-pressed", String(number === state.active));
  result.media.forEach((medium, mediaIndex) => {
    const figure = section.querySelectorAll(".picture")[mediaIndex],
      canvas = figure.querySelector("canvas"),
      input = figure.querySelector(".input");
    if (result.clip) showImage(figure.firstChild, result.clip.frames[frameNow(result)]);
    if (input) input.hidden = !state.input;
    if (input && state.input) showImage(input, medium.inputs[stepNow(result)]);
    canvas.style.opacity = values.length && !isEmpty ? state.alpha : 0;
    if (values.length) {
      const [, rows, columns] = medium.grid;
      paint(canvas, visibleCells(result, mediaIndex, values), rows, columns, high, state.colormap, state.interp);
    }
    figure.setAttribute("aria-label", t("picture_label", medium.name, description));
  });
  const notice = kindOf(result).notice?.(panel, number) ?? "";
  section.querySelector(".notice").hidden = !notice;
  setText(section.querySelector(".notice"), notice);
  paintBar(section.querySelector(".bar"), state.colormap);
  drawScale(section, panel, isEmpty ? null : high);
}

/** Write the end of the scale, the range of the values and the share; what needs the fine values waits for them. */
function drawScale(section, panel, high) {
  const { values, fine } = valuesOf(panel),
    known = high !== null && values.length;
  section.querySelector(".high").textContent = known ? describeHigh(panel, high) : "–";
  section.querySelector(".ends").textContent =
    high === null ? t("empty") : fine ? describeEnds(panel, scaledCells(panel, values), high) : t("not_yet");
  section.querySelector(".share").textContent = (kindOf(resultOf(panel)).share ?? describeShare)(panel);
}

/** Whether the model sees only a part of the picture. */
function isCropped(medium) {
  const [x0, y0, x1, y1] = regionOf(medium),
    [width, height] = medium.size_px;
  return x0 > 1 || y0 > 1 || x1 < width - 1 || y1 < height - 1;
}

/** A path that darkens what the model does not see; nothing if it sees all. */
function veilOf(medium) {
  if (!isCropped(medium)) return [];
  const [x0, y0, x1, y1] = regionOf(medium),
    [width, height] = medium.size_px;
  const d = `M0,0H${width}V${height}H0Z M${x0},${y0}V${y1}H${x1}V${y0}Z`;
  return [makeSvg("path", { d, "class": "veil", "fill-rule": "evenodd" })];
}

/** Cross out a box. */
function cross([x0, y0, x1, y1]) {
  const [w, h] = [(x1 - x0) / 4, (y1 - y0) / 4];
  const d = `M${x0 + w},${y0 + h}L${x1 - w},${y1 - h}M${x0 + w},${y1 - h}L${x1 - w},${y0 + h}`;
  return makeSvg("path", { d, class: "cross" });
}

/** Outline the pointed cell, the selected one and that of the row, and cross out the cells that a method removed. */
function drawMarks() {
  state.panels.forEach((panel, number) => {
    const result = resultOf(panel),
      map = mapOf(panel),
      { kind, place } = rowAt(result, panel.row),
      hasPlace = Number.isInteger(place) && map.rows?.length !== 0;
    $("panels")
      .children[number].querySelectorAll(".picture svg")
      .forEach((svg, mediaIndex) => {
        const marks = veilOf(result.media[mediaIndex]),
          step = stepNow(result);
        const visible = (index, mark) => {
          const position = positionOf(result, index);
          if (position?.number === mediaIndex && position.step === step) marks.push(...[mark(position.box)].flat());
        };
        for (const index of map.removed) visible(index, cross);
        const { selected, cell } = state;
        if (hasPlace) {
          visible(startOf(result, 0) + place, (box) => outline(box, "kept"));
          const chosen = kind === "cell" && selected?.panel === number ? placeOf(result, selected.index) : place;
          if (chosen !== place) visible(startOf(result, 0) + chosen, (box) => outline(box, "pointed wanted"));
        } else if (selected && !result.cell_rows && sameCells(selected.panel, number))
          visible(selected.index, (box) => outline(box, "kept"));
        if (cell && sameCells(cell.panel, number)) visible(cell.index, (box) => outline(box, "pointed"));
        svg.replaceChildren(...marks);
      });
  });
}
