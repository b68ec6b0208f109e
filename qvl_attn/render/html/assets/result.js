// The page of one or several results: starts, draws everything, and unpacks the maps.

function drawHead() {
  const result = resultOf(active()),
    isAlike = DATA.results.every(({ kind }) => kind === result.kind);
  $$("main")[0].dataset.kind = result.kind;
  $("title").textContent = isAlike ? t("heading", result.title) : result.title;
  $("about").textContent = result.media.map((medium) => `${medium.name} ${medium.size_px.join("×")}`).join(", ");
}

function drawFoot() {
  const result = resultOf(active()),
    made = result.made,
    leftOut = kindOf(result).leftOut ?? ((kind, ...details) => t(`left_${kind}`, ...details));
  const lines = [
    ...result.left_out.map((part) => leftOut(...part)),
    ...result.notes,
  ];
  $("notes").replaceChildren(...lines.map((line) => make("li", {}, line)));
  $("made").textContent = t(
    "made",
    made.qvl_attn,
    made.model,
    made.revision.slice(0, 12),
    madeBy(result),
    made.dtype,
    made.device,
    made.transformers,
    made.torch,
  );
}

/** How the attention was computed, or the family of the encoder; empty for a kind with neither. */
const madeBy = ({ made }) => made.attention ?? made.family ?? "";

/** Draw groups of buttons again; the focus stays on the same button of the same group. */
function keepFocus(redraw) {
  const group = document.activeElement?.closest("#results, #question, #answer, #queries, #sources, #attending");
  const index = group ? [...group.querySelectorAll("button")].findIndex((it) => it === document.activeElement) : -1;
  redraw();
  if (index < 0) return;
  const buttons = [...group.querySelectorAll("button")];
  buttons[Math.min(index, buttons.length - 1)]?.focus({ preventScroll: true });
}

function drawAll() {
  view.kind = resultOf(active()).kind;
  translate();
  keepFocus(() => {
    drawHead();
    drawResults();
    drawQueries();
    drawLayers();
    drawSections();
  });
  drawClip();
  drawViewControls();
  drawPanels();
  drawMarks();
  inspect();
  drawStrongest();
  drawFoot();
}

async function begin() {
  for (const number of new Set(DATA.results.flatMap((result) => result.maps.map((map) => map.coarse))))
    await unpack(number);
  state.panels = [newPanel(0)];
  listenToHeader(() => change(() => {}));
  listen();
  addEventListener("resize", () => change(() => {}));
  buildPanels();
  drawAll();
  document.documentElement.dataset.state = "coarse";
  let drawn = performance.now();
  await unpackAll(
    () => state.panels.map((panel) => entryOf(panel).block),
    (done, total) => {
      $("progress").textContent = done < total ? t("loading", done, total) : "";
      const isFiner = state.panels.some(
        (panel, i) => $("panels").children[i].classList.contains("coarse") && valuesOf(panel).fine,
      );
      if (!isFiner && (performance.now() - drawn < 200 || !document.querySelector(".thumb"))) return;
      drawn = performance.now();
      change(() => {});
    },
  );
  change(() => {});
  document.documentElement.dataset.state = "fine";
}

begin().catch(showFault);
