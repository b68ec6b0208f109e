// A small line chart over numbers or seconds, in SVG.

const CHART = { height: 200, left: 46, right: 12, top: 24, bottom: 36 };

/** Round tick values from 0 to `high`. */
function tickValues(high) {
  const unit = 10 ** Math.floor(Math.log10(high / 3)),
    step = [1, 2, 5, 10].find((factor) => high / (unit * factor) <= 5.5) * unit;
  return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, i) => i * step);
}

/**
 * A line of a chart. NaN in `y` marks a missing value; `kind` is a CSS class; `low` and `high` are the edges of a band;
 * with `steps`, `x` has one more value than `y`, and the line is drawn as stairs.
 *
 * @typedef {{label: string, kind: string, x: number[], y: number[], low?: number[], high?: number[], steps?: boolean,
 *   dots?: boolean}} Line
 */

/**
 * Return the chart as a figure with a key.
 *
 * width: in pixels. shaded: [[from, to], ...]. pick(x): called on a click. at: x of the vertical line. whole: whether x
 * values are whole numbers.
 *
 * @param {{width: number, lines: Line[], shaded?: number[][], xLabel: string, yLabel: string, label: string,
 *   pick?: (x: number) => void, at?: number, whole?: boolean}} options
 */
function chart({ width, lines, shaded = [], xLabel, yLabel, label, pick, at, whole = false }) {
  const { height, left, right, top, bottom } = CHART;
  const drawn = lines.filter((line) => line.y.some(Number.isFinite));
  const xs = drawn.flatMap((line) => [...line.x]);
  const x0 = Math.min(...xs),
    x1 = Math.max(...xs, x0 + 1e-9);
  const yMax =
    Math.max(...drawn.flatMap((line) => [...line.y, ...(line.high ?? [])].filter(Number.isFinite)), 1e-9) * 1.06;
  const margin = whole ? 0.5 : 0;
  const px = (x) => left + ((x - x0 + margin) / (x1 - x0 + 2 * margin)) * (width - left - right);
  const py = (y) => height - bottom - (y / yMax) * (height - top - bottom);
  const svg = makeSvg("svg", {
    "viewBox": `0 0 ${width} ${height}`,
    "class": "chart",
    "role": "img",
    "aria-label": label,
  });
  for (const [from, to] of shaded)
    svg.append(
      makeSvg("rect", {
        x: px(from),
        y: top,
        width: Math.max(px(to) - px(from), 1),
        height: height - top - bottom,
        class: "shaded",
      }),
    );
  for (const y of tickValues(yMax)) {
    svg.append(makeSvg("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "rule" }));
    svg.append(makeSvg("text", { x: left - 6, y: py(y) + 4, class: "tick end" }, compact(Number(y.toPrecision(6)))));
  }
  const ticks = tickValues(Math.max(x1 - x0, 1e-9))
    .map((x) => x + x0)
    .filter((x) => !whole || Number.isInteger(x));
  for (const x of ticks)
    svg.append(
      makeSvg("text", { x: px(x), y: height - bottom + 16, class: "tick mid" }, String(Number(x.toPrecision(4)))),
    );
  svg.append(
    makeSvg("text", { x: width - right, y: height - 4, class: "tick end" }, xLabel),
    makeSvg("text", { x: 2, y: 12, class: "tick" }, yLabel),
  );
  for (const line of drawn) {
    if (line.low) {
      const finite = [...line.x.keys()].filter((i) => Number.isFinite(line.low[i]) && Number.isFinite(line.high[i]));
      const points = [
        ...finite.map((i) => `${px(line.x[i])},${py(line.high[i])}`),
        ...finite.reverse().map((i) => `${px(line.x[i])},${py(line.low[i])}`),
      ];
      if (points.length) svg.append(makeSvg("polygon", { points: points.join(" "), class: "band" }));
    }
    const path = line.steps
      ? line.y.map((y, i) => `${i ? "L" : "M"}${px(line.x[i])},${py(y)}H${px(line.x[i + 1])}`).join("")
      : line.y
          .map((y, i) =>
            Number.isFinite(y) ? `${i && Number.isFinite(line.y[i - 1]) ? "L" : "M"}${px(line.x[i])},${py(y)}` : "",
          )
          .join("");
    if (line.dots)
      line.y.forEach((y, i) =>
        svg.append(makeSvg("circle", { cx: px(line.x[i]), cy: py(y), r: 3.5, class: `dot ${line.kind}` })),
      );
    else svg.append(makeSvg("path", { d: path, class: `line ${line.kind}` }));
  }
  if (at !== undefined)
    svg.append(makeSvg("line", { x1: px(at), x2: px(at), y1: top, y2: height - bottom, class: "now" }));
  if (pick) {
    svg.classList.add("picked");
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(),
        clickedPx = ((event.clientX - box.left) / box.width) * width;
      pick(x0 - margin + ((clickedPx - left) / (width - left - right)) * (x1 - x0 + 2 * margin));
    });
  }
  const keys = drawn.map((line) => make("span", { class: `key ${line.kind}` }, line.label));
  return make("figure", { class: "charted" }, svg, make("figcaption", {}, ...keys));
}
