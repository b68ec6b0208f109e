// The page of one or several results: starts, draws everything, and unpacks the maps.

function drawClip() {
  const panel = active(),
    result = resultOf(panel),
    clip = result.clip;
  $("film").hidden = !clip;
  $("scale-frame").hidden = $("scale-frame").disabled = !clip;
  if (!clip) {
    players.clip.stop();
    if (state.scale === "frame") state.scale = "own";
    return;
  }
  const frame = frameNow(result),
    [steps, rows, columns] = result.media[0].grid;
  $("frame").max = clip.frames.length - 1;
  $("frame").value = frame;
  setText($("frame-told"), describeFrame(result));
  $("frame").setAttribute("aria-valuetext", describeFrame(result));
  const timesUniform = (values) => {
    const sums = Array.from({ length: steps }, (_, step) =>
      sum(values.subarray(step * rows * columns, (step + 1) * rows * columns)),
    );
    return sums.map((mass) => (mass * steps) / (sum(sums) || 1));
  };
  const headline = { ...panel, map: result.headline, source: 0, row: 0, head: null };
  const stairs = (shown) => ({ x: clip.edges_s, y: timesUniform(valuesOf(shown).values), steps: true });
  /** @type {Line[]} */
  const lines = [
    { label: t("timeline_now"), kind: "main", ...stairs(panel) },
    { label: t("timeline_chance"), kind: "chance", x: [clip.edges_s[0], clip.edges_s[steps]], y: [1, 1] },
  ];
  if (describe(headline) !== describe(panel))
    lines.unshift({ label: t("timeline_headline"), kind: "other", ...stairs(headline) });
  if (clip.alone.length)
    lines.push({ label: t("timeline_alone"), kind: "alone", x: clip.times_s, y: clip.alone, dots: true });
  const frameAt = (time_s) => clip.times_s.reduce((frame, start_s, i) => (start_s <= time_s + 1e-9 ? i : frame), 0);
  $("timeline").replaceChildren(
    chart({
      width: Math.max($("timeline").clientWidth, 320),
      lines,
      xLabel: t("seconds"),
      yLabel: t("chance_axis"),
      label: t("timeline_hint"),
      at: clip.times_s[frame],
      pick: (time_s) => change(() => (state.frame = frameAt(time_s))),
    }),
  );
  $("passes").hidden = !clip.passes.length;
  $("passes")
    .querySelector("tbody")
    .replaceChildren(
      ...clip.passes.map((pass) =>
        make("tr", {}, make("td", {}, pass.when), make("td", {}, pass.answer || t("no_answer"))),
      ),
    );
}

function drawFoot() {
  const result = resultOf(active()),
    made = result.made;
  const lines = [
    ...result.left_out.map(([kind, ...details]) => t(`left_${kind}`, ...details)),
    ...(result.profile ? [result.profile] : []),
    ...result.notes,
  ];
  $("notes").replaceChildren(...lines.map((line) => make("li", {}, line)));
  $("made").textContent = t(
    "made",
    made.qvl_attn,
    made.model,
    made.revision.slice(0, 12),
    made.attention,
    made.dtype,
    made.device,
    made.transformers,
    made.torch,
  );
  $("about").textContent = result.media.map((medium) => `${medium.name} ${medium.size_px.join("×")}`).join(", ");
}

/** Draw groups of buttons again; the focus stays on the same button of the same group. */
function keepFocus(redraw) {
  const group = document.activeElement?.closest("#questions, #question, #answer, #queries, #sources, #lookers");
  const index = group ? [...group.querySelectorAll("button")].findIndex((it) => it === document.activeElement) : -1;
  redraw();
  if (index >= 0) group.querySelectorAll("button")[index]?.focus({ preventScroll: true });
}

function drawAll() {
  translate();
  $("alpha-told").textContent = percent(state.alpha);
  $("compare").setAttribute("aria-pressed", String(state.panels.length > 1));
  keepFocus(() => {
    drawQuestions();
    drawWords();
    drawLayers();
    drawAttendingWords();
  });
  drawHeads();
  drawClip();
  for (const name of ["colormap", "interp", "scale"]) $(name).value = state[name];
  drawFaith();
  drawPanels();
  drawMarks();
  inspect();
  drawStrongest();
  drawFoot();
}

async function begin() {
  $("colormap").replaceChildren(...Object.keys(TABLES).map((name) => make("option", { value: name }, name)));
  for (const number of new Set(DATA.results.flatMap((result) => result.maps.map((map) => map.coarse))))
    await unpack(number);
  state.panels = [newPanel(0)];
  listenToHeader(() => change(() => {}));
  listen();
  addEventListener("resize", () => change(() => {}));
  buildPanels();
  drawAll();
  document.documentElement.dataset.state = "coarse";
  await unpackAll(
    () => state.panels.map((panel) => entryOf(panel).block),
    (done, total) => {
      $("progress").textContent = done < total ? t("loading", done, total) : "";
      if (
        done === total ||
        state.panels.some((panel, i) => $("panels").children[i].classList.contains("coarse") && valuesOf(panel).fine)
      )
        change(() => {});
    },
  );
  change(() => {});
  document.documentElement.dataset.state = "fine";
}

begin().catch((error) => {
  $("progress").textContent = t("broken", error.message);
  throw error;
});
