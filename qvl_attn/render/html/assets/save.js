// The panels side by side as one PNG: pictures with their maps and marks, the scale, and the texts.

// The largest height of a picture in a saved view.
const MAX_SAVED_PX = 1600;

/** Draw the panels side by side on one canvas. */
async function viewCanvas() {
  const gap = 32,
    panelWidth = state.panels.length > 1 ? 760 : 1280;
  const panelCanvases = [];
  for (const [number, panel] of state.panels.entries())
    panelCanvases.push(await panelCanvas(panel, $("panels").children[number], panelWidth));
  const canvas = make("canvas", {
    width: panelCanvases.length * (panelWidth + gap) + gap,
    height: Math.max(...panelCanvases.map((drawn) => drawn.height)) + 2 * gap,
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  panelCanvases.forEach((drawn, number) => context.drawImage(drawn, gap + number * (panelWidth + gap), gap));
  return canvas;
}

/** Draw a panel on a canvas: the texts above, the pictures in rows, the scale, and the texts below. */
async function panelCanvas(panel, section, width) {
  const result = resultOf(panel),
    canvas = make("canvas", { width, height: 8 }),
    font = "system-ui, 'Noto Sans CJK SC', sans-serif";
  const context = canvas.getContext("2d"),
    figures = [...section.querySelectorAll(".picture")],
    gap = 8;
  const rows = [];
  result.media.forEach((medium, i) => (i % MAX_IN_ROW ? rows[rows.length - 1].push(i) : rows.push([i])));
  const aspect = (i) => aspectOf(result.media[i]),
    rowHeight = (row) => (width - gap * (row.length - 1)) / sum(row.map(aspect));
  const height = Math.round(Math.min(...rows.map(rowHeight), MAX_SAVED_PX));
  const titles = kindOf(result).savedWords?.(result) ?? [[result.title, "#181a1f"]],
    texts = titles.map(([text, color]) => [text, 24, color]);
  const captions = [
    describe(panel),
    section.querySelector(".ends").textContent,
    section.querySelector(".share").textContent,
    ...(result.clip ? [describeFrame(result)] : []),
    [result.made.model, madeBy(result), result.made.dtype].filter(Boolean).join(" · "),
  ].map((text) => [text, 17, "#5a5f69"]);
  const layOut = (lines) =>
    lines.flatMap(([text, size, color]) => {
      context.font = `${size}px ${font}`;
      return wrapText(context, text, width).map((line) => [line, size, color]);
    });
  const [above, below] = [layOut(texts), layOut(captions)],
    heightOf = (lines) => sum(lines.map(([, size]) => Math.round(size * 1.4)));
  canvas.height = heightOf(above) + 12 + rows.length * (height + gap) + 40 + heightOf(below);
  let y = 0;
  const write = (lines) => {
    for (const [line, size, color] of lines) {
      context.font = `${size}px ${font}`;
      context.fillStyle = color;
      context.fillText(line, 0, y + size);
      y += Math.round(size * 1.4);
    }
  };
  write(above);
  y += 12;
  for (const row of rows) {
    let x = 0;
    for (const i of row) {
      const pictureWidth = Math.round(aspect(i) * height);
      await drawFigure(context, figures[i], result.media[i], x, y, pictureWidth, height);
      x += pictureWidth + gap;
    }
    y += height + gap;
  }
  y += 2;
  context.fillStyle = "#5a5f69";
  context.font = `15px ${font}`;
  context.fillText("0", 0, y + 14);
  context.drawImage(section.querySelector(".bar"), 16, y, 256, 16);
  context.fillText(section.querySelector(".high").textContent, 280, y + 14);
  y += 30;
  write(below);
  return canvas;
}

/** Draw a picture with its map and marks on a canvas, cut off at its edges. */
async function drawFigure(context, figure, medium, x, y, width, height) {
  const image = figure.firstChild,
    input = figure.querySelector(".input:not([hidden])"),
    map = figure.querySelector("canvas"),
    [x0, y0, x1, y1] = regionOf(medium),
    [scaleX, scaleY] = [width / medium.size_px[0], height / medium.size_px[1]];
  const region = [x + x0 * scaleX, y + y0 * scaleY, (x1 - x0) * scaleX, (y1 - y0) * scaleY];
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  await image.decode();
  context.drawImage(image, x, y, width, height);
  if (input) {
    await input.decode();
    context.drawImage(input, ...region);
  }
  context.globalAlpha = Number(map.style.opacity);
  context.drawImage(map, ...region);
  context.globalAlpha = 1;
  drawSvgMarks(context, figure.querySelector("svg"), x, y, width, height);
  context.restore();
}

async function saveView() {
  while (document.documentElement.dataset.state !== "fine") await pause();
  drawAll(); // with the values unpacked since
  await download(await viewCanvas(), resultOf(active()).title);
}

/** Break a text into lines no wider than `width` pixels. */
function wrapText(context, text, width) {
  const lines = [""];
  const parts = text.split(/(?<=\s)|(?<=[\u3000-\u9fff])/u);
  const fits = (part) => context.measureText(part).width <= width;
  for (const word of parts.flatMap((part) => (fits(part) ? [part] : [...part]))) {
    if (context.measureText(lines[lines.length - 1] + word).width > width && lines[lines.length - 1]) lines.push("");
    lines[lines.length - 1] += word;
  }
  return lines;
}

/** Draw the marks of an SVG overlay on a canvas. */
function drawSvgMarks(context, svg, x, y, width, height) {
  const { width: w, height: h } = svg.viewBox.baseVal;
  for (const mark of svg.children) {
    context.strokeStyle = mark.classList.contains("under")
      ? "#101218"
      : mark.classList.contains("cross")
        ? "#ffffff"
        : "#5adcff";
    context.lineWidth = mark.classList.contains("under") ? 5 : 2.5;
    context.save();
    context.translate(x, y);
    const path = new Path2D(mark.getAttribute("d") ?? undefined),
      scaled = new Path2D();
    const edge = (name) => Number(mark.getAttribute(name));
    if (mark.tagName === "rect") path.rect(edge("x"), edge("y"), edge("width"), edge("height"));
    scaled.addPath(path, new DOMMatrix([width / w, 0, 0, height / h, 0, 0]));
    if (mark.classList.contains("veil")) {
      context.fillStyle = "rgb(16 18 24 / 60%)";
      context.fill(scaled, "evenodd");
    } else context.stroke(scaled);
    context.restore();
  }
}

/** Download a canvas as a PNG named after a text. */
async function download(canvas, text) {
  const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const url = URL.createObjectURL(file),
    name = text
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu)
      ?.join("-")
      .slice(0, 40);
  make("a", { href: url, download: `qvl-attn-${name || "view"}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
