// The panels side by side as one PNG: pictures with their maps and marks, the scale, and the texts.

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
  const height = Math.round(Math.min(...rows.map(rowHeight), 1600));
  const texts = [
    [`${t("question")}: ${isolate(result.question)}`, 24, "#181a1f"],
    [`${t("answer")}: ${isolate(result.answer || t("no_answer"))}${supplied(result)}`, 24, "#be3e14"],
  ];
  const captions = [
    describe(panel),
    section.querySelector(".told").textContent,
    section.querySelector(".share").textContent,
    ...(result.clip ? [describeFrame(result)] : []),
    `${result.made.model} · ${result.made.attention} · ${result.made.dtype}`,
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
      const pictureWidth = Math.round(aspect(i) * height),
        [img, map, svg] = figures[i].children;
      await img.decode();
      context.drawImage(img, x, y, pictureWidth, height);
      context.globalAlpha = Number(map.style.opacity);
      context.drawImage(map, x, y, pictureWidth, height);
      context.globalAlpha = 1;
      drawSvgMarks(context, svg, x, y, pictureWidth, height);
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

async function saveView() {
  while (document.documentElement.dataset.state !== "fine") await pause();
  drawAll(); // with the values unpacked since
  await download(await viewCanvas(), resultOf(active()).question);
}
