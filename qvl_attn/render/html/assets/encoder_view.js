// The picture with its map, the scale, the pointed patch, and the strongest patches.

const [WIDTH_PX, HEIGHT_PX] = DATA.size_px;
const REGION = [DATA.xs[0], DATA.ys[0], DATA.xs[COLUMNS], DATA.ys[ROWS]];
const MAX_SAVED_PX = 2560; // maximum height of the picture in a saved view
/** Whether the encoder sees only a part of the picture. */
const IS_CROPPED = REGION[0] > 1 || REGION[1] > 1 || REGION[2] < WIDTH_PX - 1 || REGION[3] < HEIGHT_PX - 1;

/** Place the map and the reconstruction of the input over the region that the encoder sees. */
function buildPicture() {
  const [drawn_w, drawn_h] = DATA.drawn_px,
    [x0, y0, x1, y1] = REGION;
  $("picture").style.aspectRatio = `${drawn_w} / ${drawn_h}`;
  $("holder").style.maxWidth = `calc(74vh * ${drawn_w / drawn_h})`;
  $("picture").style.flex = "1 1 0";
  $("map").width = Math.max(Math.round(((x1 - x0) * drawn_w) / WIDTH_PX), 1);
  $("map").height = Math.max(Math.round(((y1 - y0) * drawn_h) / HEIGHT_PX), 1);
  for (const name of ["map", "turned-back"]) {
    const { style } = $(name);
    style.left = `${(100 * x0) / WIDTH_PX}%`;
    style.top = `${(100 * y0) / HEIGHT_PX}%`;
    style.width = `${(100 * (x1 - x0)) / WIDTH_PX}%`;
    style.height = `${(100 * (y1 - y0)) / HEIGHT_PX}%`;
  }
  for (const name of ["veil", "marks"]) $(name).setAttribute("viewBox", `0 0 ${WIDTH_PX} ${HEIGHT_PX}`);
  if (IS_CROPPED)
    $("veil").append(
      makeSvg("path", {
        "d": `M0,0H${WIDTH_PX}V${HEIGHT_PX}H0Z M${x0},${y0}V${y1}H${x1}V${y0}Z`,
        "fill-rule": "evenodd",
      }),
    );
}

/** The patch under the pointer, or null. */
function placeAt(event) {
  const box = $("picture").getBoundingClientRect(),
    [x0, y0, x1, y1] = REGION;
  const x = ((event.clientX - box.left) / box.width) * WIDTH_PX,
    y = ((event.clientY - box.top) / box.height) * HEIGHT_PX;
  const column = Math.floor(((x - x0) / (x1 - x0)) * COLUMNS),
    row = Math.floor(((y - y0) / (y1 - y0)) * ROWS);
  return row < 0 || column < 0 || row >= ROWS || column >= COLUMNS ? null : row * COLUMNS + column;
}

function drawPicture() {
  const entry = entryOf(),
    values = ofStep(valuesOf(entry)),
    high = highOf(entry),
    ready = Boolean(values) && high !== undefined;
  showImage($("original"), DATA.steps.pictures[state.step]);
  $("turned-back").hidden = !state.back;
  if (state.back) showImage($("turned-back"), DATA.steps.turned_back[state.step]);
  $("map").style.opacity = ready ? state.alpha : 0;
  if (ready) paint($("map"), values, ROWS, COLUMNS, high, state.colormap, state.interp);
  $("what").textContent = describe();
  $("picture").setAttribute("aria-label", t("picture_of", DATA.name, describe()));
  paintBar($("bar"), state.colormap);
  if (!ready) {
    for (const name of ["high", "share"]) $(name).textContent = "–";
    $("told").textContent = t("not_yet");
    return;
  }
  const isAttention = state.kind === "attention",
    [min, max] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  $("high").textContent = isAttention ? t("high_told", compact(high), times(multipleOf(high))) : digits(high);
  const above = values.filter((value) => value > high * (1 + 2 ** -11)).length;
  $("told").textContent = isAttention
    ? t("ends_patches", compact(min), compact(max), times(multipleOf(max)), above, CELLS, describeUniform())
    : t("ends_plain", digits(min), digits(max));
  $("share").textContent = describeShare(values);
}

function showImage(img, picture) {
  const url = pictureUrl(picture);
  if (img.getAttribute("src") !== url) img.src = url;
}

/** Outline the query patch, the clicked patch if another stands in for it, and the pointed patch. */
function drawMarks() {
  const queryPatch = queryPlace(),
    marks = [];
  const add = (place, kind) => {
    const [x0, y0, x1, y1] = boxOf(place);
    for (const under of ["under ", ""])
      marks.push(makeSvg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: under + kind }));
  };
  if (queryPatch !== null) add(queryPatch, "kept");
  if (clicked() && state.place !== queryPatch) add(state.place, "pointed wanted");
  if (state.cell !== null) add(state.cell, "pointed");
  $("marks").replaceChildren(...marks);
}

/** Describe the pointed patch. */
function inspect() {
  const values = ofStep(valuesOf(entryOf()));
  if (state.cell === null) return setText($("cell"), t("patch_hint"));
  setText($("cell"), values ? describePatch(state.cell, values) : t("not_yet"));
}

function describePatch(place, values) {
  const [x0, y0, x1, y1] = boxOf(place).map((edge) => Number(edge.toFixed(1)));
  const row = rowAt(place) + 1,
    column = columnAt(place) + 1;
  const rank = ranksOf(values).ranks[place];
  return t("patch_told", row, column, describeValue(values[place]), rank, CELLS, x0, x1, y0, y1);
}

const describeValue = (value) =>
  state.kind === "attention" ? t("patch_value", compact(value), times(multipleOf(value))) : digits(value);

/** The ten strongest patches as a table, an alternative to the map for screen readers. */
function drawStrongest() {
  const values = ofStep(valuesOf(entryOf())),
    isAttention = state.kind === "attention",
    table = $("strongest");
  const names = ["looked_rank", "looked_value", ...(isAttention ? ["looked_even"] : []), "looked_where"];
  table.tHead.replaceChildren(make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, t(name)))));
  const { order, ranks } = values ? ranksOf(values) : { order: [], ranks: [] };
  table.tBodies[0].replaceChildren(
    ...[...order.slice(0, 10)].map((place) => {
      const [x0, y0, x1, y1] = boxOf(place).map(Math.round);
      const multiple = isAttention ? [multipleOf(values[place]).toFixed(1)] : [];
      const parts = [ranks[place], digits(values[place]), ...multiple, `x ${x0}-${x1}, y ${y0}-${y1}`];
      return make("tr", {}, ...parts.map((text) => make("td", {}, String(text))));
    }),
  );
}

/** Save the view as one PNG: the picture with its map and marks, the scale, and the texts. */
async function saveEncoderView() {
  while (document.documentElement.dataset.state !== "fine") await pause();
  drawAll(); // with the values unpacked since
  await download(await encoderCanvas(), DATA.name);
}

async function encoderCanvas() {
  const gap = 32,
    width = 1280,
    [drawn_w, drawn_h] = DATA.drawn_px,
    height = Math.min(Math.round((width * drawn_h) / drawn_w), MAX_SAVED_PX);
  const font = "system-ui, 'Noto Sans CJK SC', sans-serif",
    canvas = make("canvas", { width: width + 2 * gap, height: 8 }),
    context = canvas.getContext("2d");
  const texts = [
    [DATA.name, 24, "#181a1f"],
    [describe(), 18, "#181a1f"],
    ...(STEPS > 1 ? [[describeStep(), 17, "#5a5f69"]] : []),
    ...["told", "share"].map((name) => [$(name).textContent, 17, "#5a5f69"]),
    [`${DATA.made.model} · ${DATA.made.family} · ${DATA.made.dtype}`, 17, "#5a5f69"],
  ];
  const lines = texts.flatMap(([text, size, color]) => {
    context.font = `${size}px ${font}`;
    return wrapText(context, text, width).map((line) => [line, size, color]);
  });
  canvas.height = height + 40 + 3 * gap + sum(lines.map(([, size]) => Math.round(size * 1.4)));
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  await drawPictureOn(context, gap, gap, Math.min(width, (height * drawn_w) / drawn_h), height);
  let y = gap + height + 12;
  context.fillStyle = "#5a5f69";
  context.font = `15px ${font}`;
  context.fillText("0", gap, y + 14);
  context.drawImage($("bar"), gap + 16, y, 256, 16);
  context.fillText($("high").textContent, gap + 280, y + 14);
  y += 28;
  for (const [line, size, color] of lines) {
    context.font = `${size}px ${font}`;
    context.fillStyle = color;
    context.fillText(line, gap, y + size);
    y += Math.round(size * 1.4);
  }
  return canvas;
}

/** Draw the picture with its map and marks, clipped to its edges. */
async function drawPictureOn(context, x, y, width, height) {
  const [x0, y0, x1, y1] = REGION,
    [scaleX, scaleY] = [width / WIDTH_PX, height / HEIGHT_PX];
  /** @type {[number, number, number, number]} */
  const region = [x + x0 * scaleX, y + y0 * scaleY, (x1 - x0) * scaleX, (y1 - y0) * scaleY];
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  await $("original").decode();
  context.drawImage($("original"), x, y, width, height);
  if (state.back) {
    await $("turned-back").decode();
    context.drawImage($("turned-back"), ...region);
  }
  context.globalAlpha = Number($("map").style.opacity);
  context.drawImage($("map"), ...region);
  context.globalAlpha = 1;
  if (IS_CROPPED) {
    const outside = new Path2D();
    outside.rect(x, y, width, height);
    outside.rect(...region);
    context.fillStyle = "rgb(16 18 24 / 60%)";
    context.fill(outside, "evenodd");
  }
  drawSvgMarks(context, $("marks"), x, y, width, height);
  context.restore();
}
