// What every saved view needs: wrapped texts, marks on a canvas, and the download.

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
    context.stroke(scaled);
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
