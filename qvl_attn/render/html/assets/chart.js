// A small chart of lines over numbers or seconds, in SVG, that says its values when pointed at.

const CHART = { height: 200, left: 46, right: 12, top: 24, bottom: 36 };

function nice(most) {
  const unit = 10 ** Math.floor(Math.log10(most / 3)),
    step = [1, 2, 5, 10].find((of) => most / (unit * of) <= 5.5) * unit;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => i * step);
}

/**
 * width: in pixels. lines: [{label, kind, x: [...], y: [...], low, high, steps}], NaN where there is nothing; kind is a class of the style.
 * `steps` has an end more than values, and draws stairs. shaded: [[from, to], ...].
 */
function chart({ width, lines, shaded = [], xLabel, yLabel, label, pick, at, whole = false }) {
  const { height, left, right, top, bottom } = CHART;
  const known = lines.filter((line) => line.y.some(Number.isFinite));
  const every = known.flatMap((line) => [...line.x]);
  const x0 = Math.min(...every),
    x1 = Math.max(...every, x0 + 1e-9);
  const most =
    Math.max(...known.flatMap((line) => [...line.y, ...(line.high ?? [])].filter(Number.isFinite)), 1e-9) * 1.06;
  const margin = whole ? 0.5 : 0;
  const px = (x) => left + ((x - x0 + margin) / (x1 - x0 + 2 * margin)) * (width - left - right);
  const py = (y) => height - bottom - (y / most) * (height - top - bottom);
  const svg = draw("svg", {
    "viewBox": `0 0 ${width} ${height}`,
    "class": "chart",
    "role": "img",
    "aria-label": label,
  });
  for (const [from, to] of shaded)
    svg.append(
      draw("rect", {
        x: px(from),
        y: top,
        width: Math.max(px(to) - px(from), 1),
        height: height - top - bottom,
        class: "shaded",
      }),
    );
  for (const y of nice(most)) {
    svg.append(draw("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "rule" }));
    svg.append(draw("text", { x: left - 6, y: py(y) + 4, class: "tick end" }, compact(Number(y.toPrecision(6)))));
  }
  const ticks = nice(Math.max(x1 - x0, 1e-9))
    .map((x) => x + x0)
    .filter((x) => !whole || Number.isInteger(x));
  for (const x of ticks)
    svg.append(
      draw("text", { x: px(x), y: height - bottom + 16, class: "tick mid" }, String(Number(x.toPrecision(4)))),
    );
  svg.append(
    draw("text", { x: width - right, y: height - 4, class: "tick end" }, xLabel),
    draw("text", { x: 2, y: 12, class: "tick" }, yLabel),
  );
  for (const line of known) {
    if (line.low) {
      const there = [...line.x.keys()].filter((i) => Number.isFinite(line.low[i]) && Number.isFinite(line.high[i]));
      const ends = [
        ...there.map((i) => `${px(line.x[i])},${py(line.high[i])}`),
        ...there.reverse().map((i) => `${px(line.x[i])},${py(line.low[i])}`),
      ];
      if (ends.length) svg.append(draw("polygon", { points: ends.join(" "), class: "band" }));
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
        svg.append(draw("circle", { cx: px(line.x[i]), cy: py(y), r: 3.5, class: `dot ${line.kind}` })),
      );
    else svg.append(draw("path", { d: path, class: `line ${line.kind}` }));
  }
  if (at !== undefined)
    svg.append(draw("line", { x1: px(at), x2: px(at), y1: top, y2: height - bottom, class: "now" }));
  if (pick) {
    svg.classList.add("picked");
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(),
        share = ((event.clientX - box.left) / box.width) * width;
      pick(x0 - margin + ((share - left) / (width - left - right)) * (x1 - x0 + 2 * margin));
    });
  }
  const keys = known.map((line) => make("span", { class: `key ${line.kind}` }, line.label));
  return make("figure", { class: "charted" }, svg, make("figcaption", {}, ...keys));
}
