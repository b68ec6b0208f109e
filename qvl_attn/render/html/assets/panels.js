// The panels: pictures with the map over them, the cell that is pointed at, the scale beneath.

// Pictures that stand beside one another; more are wrapped.
const IN_A_ROW = 3;
const aspectOf = (medium) => medium.drawn_px[0] / medium.drawn_px[1];

/** Build the panels anew: there are others, or other pictures. */
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
  const pictures = result.media.map((medium, which) => {
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
      draw("svg", {
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
      return { panel: number, index: startOf(result, which) + row * columns + column };
    };
    figure.addEventListener("pointermove", (event) => pointAt(cellAt(event)));
    figure.addEventListener("pointerleave", () => pointAt(null));
    figure.addEventListener("click", (event) =>
      change(() => {
        state.active = number;
        const cell = cellAt(event);
        state.kept = state.kept?.index === cell?.index && state.kept?.panel === number ? null : cell;
      }),
    );
    figure.addEventListener("keydown", (event) => walk(event, number, which));
    const shot = make("div", { class: "shot" }, figure);
    if (result.media.length > 1) shot.append(make("small", {}, `${which + 1} · ${medium.name}`));
    shot.style.flexGrow = String(width / height);
    shot.style.minWidth = `max(64px, ${Math.round((40 * width) / height)}px)`;
    return shot;
  });
  const row = make("div", { class: result.media.length > IN_A_ROW ? "pictures many" : "pictures" }, ...pictures);
  if (result.media.length <= IN_A_ROW)
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

/** The arrow keys move from cell to cell of a picture. */
function walk(event, number, which) {
  const result = resultOf(state.panels[number]),
    [, rows, columns] = result.media[which].grid;
  const start = startOf(result, which),
    moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const here =
    state.cell?.panel === number && state.cell.index >= start && state.cell.index < start + rows * columns
      ? state.cell.index - start
      : null;
  if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = here === null ? 0 : Math.min(Math.max(Math.floor(here / columns) + down, 0), rows - 1);
    const column = here === null ? 0 : Math.min(Math.max((here % columns) + right, 0), columns - 1);
    pointAt({ panel: number, index: start + row * columns + column });
  } else if (event.key === "Enter" && state.cell?.panel === number)
    change(() => Object.assign(state, { active: number, kept: state.cell }));
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
    const section = $("panels").children[number],
      result = resultOf(panel),
      what = describe(panel);
    const { values, fine } = valuesOf(panel),
      high = highOf(panel, values),
      some = shownBy(panel).mass > 0;
    section.classList.toggle("active", state.panels.length > 1 && number === state.active);
    section.classList.toggle("coarse", !fine);
    section.querySelector(".what").textContent = what;
    section.querySelector(".pick").setAttribute("aria-pressed", String(number === state.active));
    result.media.forEach((medium, which) => {
      const figure = section.querySelectorAll(".picture")[which],
        canvas = figure.querySelector("canvas");
      const start = startOf(result, which),
        [, rows, columns] = medium.grid;
      if (result.clip) showFrame(figure.querySelector("img"), result.clip.frames[frameNow(result)]);
      canvas.style.opacity = some && values.length ? state.alpha : 0;
      if (values.length) {
        const cells = values.subarray(start, start + rows * columns);
        paint(canvas, cells, rows, columns, high, state.colormap, state.interp);
      }
      figure.setAttribute("aria-label", t("picture_label", medium.name, what));
    });
    paintBar(section.querySelector(".bar"), state.colormap);
    tellScale(section, panel, some ? high : null);
  });
}

function showFrame(img, picture) {
  const url = pictureUrl(picture);
  if (img.getAttribute("src") !== url) img.src = url;
}

/** What the colours mean, and how much of the attention it is; what is counted waits for the values. */
function tellScale(section, panel, high) {
  const { values, fine } = valuesOf(panel),
    share = shareOf(panel);
  const uniform = shownBy(panel).mass / totalOf(resultOf(panel)),
    own = scaledCells(panel, values);
  section.querySelector(".high").textContent = high === null ? "–" : compact(high);
  let told = t("empty");
  if (high !== null && fine) {
    const [least, most] = [own.reduce((a, b) => Math.min(a, b)), own.reduce((a, b) => Math.max(a, b))];
    const above = own.filter((value) => value > high * (1 + 2 ** -11)).length;
    told = t("ends", compact(least), compact(most), times(most / uniform), above, own.length);
  } else if (high !== null) told = t("not_yet");
  section.querySelector(".told").textContent = told;
  const further = [share === null ? t("unscaled") : t("share", percent(share))];
  if (mapOf(panel).removed.length) further.push(t("removed"));
  section.querySelector(".share").textContent = further.join(" · ");
}

/** Outlines of the cells that are pointed at and kept, and crosses over those that a method took out. */
function drawMarks() {
  state.panels.forEach((panel, number) => {
    const result = resultOf(panel);
    $("panels")
      .children[number].querySelectorAll(".picture svg")
      .forEach((svg, which) => {
        const marks = [],
          step = stepNow(result);
        const add = (index, kind) => {
          const place = placeOf(result, index);
          if (!place || place.number !== which || place.step !== step) return;
          const [x0, y0, x1, y1] = place.box;
          if (kind === "cross") {
            const [w, h] = [(x1 - x0) / 4, (y1 - y0) / 4];
            marks.push(
              draw("path", {
                d: `M${x0 + w},${y0 + h}L${x1 - w},${y1 - h}M${x0 + w},${y1 - h}L${x1 - w},${y0 + h}`,
                class: "cross",
              }),
            );
          } else
            for (const under of ["under ", ""])
              marks.push(draw("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: under + kind }));
        };
        for (const index of mapOf(panel).removed) add(index, "cross");
        if (state.kept && sameCells(state.kept.panel, number)) add(state.kept.index, "kept");
        if (state.cell && sameCells(state.cell.panel, number)) add(state.cell.index, "pointed");
        svg.replaceChildren(...marks);
      });
  });
}
