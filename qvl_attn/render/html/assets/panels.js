// The panels: pictures with their maps, the pointed and the selected cell, and the scale.

// Up to this many pictures stand in one row; more are wrapped.
const MAX_IN_ROW = 3;
const aspectOf = (medium) => medium.drawn_px[0] / medium.drawn_px[1];

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
    const [width, height] = medium.drawn_px;
    const figure = make(
      "figure",
      { class: "picture", tabIndex: 0, role: "application" },
      make("img", {
        alt: "",
        src: medium.picture === null ? "" : pictureUrl(medium.picture),
        width,
        height,
        draggable: false,
      }),
      make("canvas", { width, height }),
      makeSvg("svg", {
        "viewBox": `0 0 ${medium.size_px.join(" ")}`,
        "preserveAspectRatio": "none",
        "aria-hidden": "true",
      }),
    );
    figure.style.aspectRatio = `${width} / ${height}`;
    const cellAt = (event) => {
      const box = figure.getBoundingClientRect(),
        [, rows, columns] = medium.grid;
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      const [row, column] = [Math.floor(y * rows), Math.floor(x * columns)];
      if (row < 0 || column < 0 || row >= rows || column >= columns) return null;
      return { panel: number, index: startOf(result, mediaIndex) + row * columns + column };
    };
    figure.addEventListener("pointermove", (event) => pointAt(cellAt(event)));
    figure.addEventListener("pointerleave", () => pointAt(null));
    figure.addEventListener("click", (event) =>
      change(() => {
        state.active = number;
        const cell = cellAt(event);
        state.selected = state.selected?.index === cell?.index && state.selected?.panel === number ? null : cell;
      }),
    );
    figure.addEventListener("keydown", (event) => moveByKey(event, number, mediaIndex));
    const item = make("div", { class: "shot" }, figure);
    if (result.media.length > 1) item.append(make("small", {}, `${mediaIndex + 1} · ${medium.name}`));
    item.style.flexGrow = String(width / height);
    item.style.minWidth = `max(64px, ${Math.round((40 * width) / height)}px)`;
    return item;
  });
  const row = make("div", { class: result.media.length > MAX_IN_ROW ? "pictures many" : "pictures" }, ...pictures);
  if (result.media.length <= MAX_IN_ROW)
    row.style.maxWidth = `max(64px, calc(74vh * ${sum(result.media.map(aspectOf))}))`;
  return make(
    "section",
    { class: "panel card" },
    make("h2", {}, pick, make("span", { class: "what" })),
    row,
    make(
      "div",
      { class: "scale" },
      make("span", {}, "0"),
      make("canvas", { width: 256, height: 12, class: "bar" }),
      make("span", { class: "high" }),
    ),
    make("p", { class: "hint told" }),
    make("p", { class: "hint share" }),
  );
}

/** Move from cell to cell of a picture with the arrow keys; Enter selects, Escape clears. */
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
  } else if (event.key === "Enter" && state.cell?.panel === number)
    change(() => Object.assign(state, { active: number, selected: state.cell }));
  else if (event.key === "Escape") change(() => Object.assign(state, { selected: null, cell: null }));
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
    const section = $("panels").children[number],
      result = resultOf(panel),
      description = describe(panel);
    const { values, fine } = valuesOf(panel),
      high = highOf(panel, values),
      hasAttention = entryOf(panel).mass > 0;
    section.classList.toggle("active", state.panels.length > 1 && number === state.active);
    section.classList.toggle("coarse", !fine);
    section.querySelector(".what").textContent = description;
    section.querySelector(".pick").setAttribute("aria-pressed", String(number === state.active));
    result.media.forEach((medium, mediaIndex) => {
      const figure = section.querySelectorAll(".picture")[mediaIndex],
        canvas = figure.querySelector("canvas");
      const start = startOf(result, mediaIndex),
        [, rows, columns] = medium.grid;
      if (result.clip) showFrame(figure.querySelector("img"), result.clip.frames[frameNow(result)]);
      canvas.style.opacity = hasAttention && values.length ? state.alpha : 0;
      if (values.length) {
        const cells = values.subarray(start, start + rows * columns);
        paint(canvas, cells, rows, columns, high, state.colormap, state.interp);
      }
      figure.setAttribute("aria-label", t("picture_label", medium.name, description));
    });
    paintBar(section.querySelector(".bar"), state.colormap);
    drawScale(section, panel, hasAttention ? high : null);
  });
}

function showFrame(img, picture) {
  const url = pictureUrl(picture);
  if (img.getAttribute("src") !== url) img.src = url;
}

/** Write the end of the scale, the range of the values and the share; the range waits for the fine values. */
function drawScale(section, panel, high) {
  const { values, fine } = valuesOf(panel),
    share = shareOf(panel);
  const uniform = entryOf(panel).mass / totalOf(resultOf(panel)),
    cells = scaledCells(panel, values);
  section.querySelector(".high").textContent = high === null ? "–" : compact(high);
  let range = t("empty");
  if (high !== null && fine) {
    const [min, max] = [cells.reduce((a, b) => Math.min(a, b)), cells.reduce((a, b) => Math.max(a, b))];
    const above = cells.filter((value) => value > high * (1 + 2 ** -11)).length;
    range = t("ends", compact(min), compact(max), times(max / uniform), above, cells.length);
  } else if (high !== null) range = t("not_yet");
  section.querySelector(".told").textContent = range;
  const notes = [share === null ? t("unscaled") : t("share", percent(share))];
  if (mapOf(panel).removed.length) notes.push(t("removed"));
  section.querySelector(".share").textContent = notes.join(" · ");
}

/** Outline the pointed and the selected cell, and cross out the cells that a method removed. */
function drawMarks() {
  state.panels.forEach((panel, number) => {
    const result = resultOf(panel);
    $("panels")
      .children[number].querySelectorAll(".picture svg")
      .forEach((svg, mediaIndex) => {
        const marks = [],
          step = stepNow(result);
        const add = (index, kind) => {
          const position = positionOf(result, index);
          if (!position || position.number !== mediaIndex || position.step !== step) return;
          const [x0, y0, x1, y1] = position.box;
          if (kind === "cross") {
            const [w, h] = [(x1 - x0) / 4, (y1 - y0) / 4];
            marks.push(
              makeSvg("path", {
                d: `M${x0 + w},${y0 + h}L${x1 - w},${y1 - h}M${x0 + w},${y1 - h}L${x1 - w},${y0 + h}`,
                class: "cross",
              }),
            );
          } else
            for (const under of ["under ", ""])
              marks.push(makeSvg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: under + kind }));
        };
        for (const index of mapOf(panel).removed) add(index, "cross");
        if (state.selected && sameCells(state.selected.panel, number)) add(state.selected.index, "kept");
        if (state.cell && sameCells(state.cell.panel, number)) add(state.cell.index, "pointed");
        svg.replaceChildren(...marks);
      });
  });
}
