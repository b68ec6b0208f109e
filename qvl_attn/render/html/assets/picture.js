// A picture with its map, and marks over it: for the panels of results and the cards of a check.

/** The region of a picture that the model sees: xyxy in pixels. */
const regionOf = ({ xs, ys }) => [xs[0], ys[0], xs[xs.length - 1], ys[ys.length - 1]];
const aspectOf = (medium) => medium.drawn_px[0] / medium.drawn_px[1];

/**
 * Build a figure of a picture, the model's input if the page has it, the map, and marks. The input and the map lie over
 * the region that the model sees.
 */
function buildPicture(medium) {
  const [width, height] = medium.drawn_px,
    [x0, y0, x1, y1] = regionOf(medium),
    [widthPx, heightPx] = medium.size_px;
  const size = (part, whole, drawn) => Math.max(Math.round((part * drawn) / whole), 1);
  const image = make("img", { alt: "", width, height, draggable: false }),
    inputs = medium.inputs ? [make("img", { class: "input", alt: "", draggable: false, hidden: true })] : [],
    canvas = make("canvas", { width: size(x1 - x0, widthPx, width), height: size(y1 - y0, heightPx, height) }),
    svg = makeSvg("svg", {
      "viewBox": `0 0 ${widthPx} ${heightPx}`,
      "preserveAspectRatio": "none",
      "aria-hidden": "true",
    });
  if (medium.picture !== null) image.src = pictureUrl(medium.picture);
  for (const { style } of [...inputs, canvas]) {
    style.left = `${(100 * x0) / widthPx}%`;
    style.top = `${(100 * y0) / heightPx}%`;
    style.width = `${(100 * (x1 - x0)) / widthPx}%`;
    style.height = `${(100 * (y1 - y0)) / heightPx}%`;
  }
  const figure = make("figure", { class: "picture" }, image, ...inputs, canvas, svg);
  figure.style.aspectRatio = `${width} / ${height}`;
  return figure;
}

/** Outline a box, light on dark. */
const outline = ([x0, y0, x1, y1], kind) =>
  ["under ", ""].map((under) =>
    makeSvg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: under + kind }),
  );
