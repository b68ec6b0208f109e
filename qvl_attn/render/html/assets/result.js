// The page of one or several results: begins, draws everything there is, and unpacks the maps.

function drawFilm() {
  const panel = active(),
    result = resultOf(panel),
    clip = result.clip;
  $("film").hidden = !clip;
  $("scale-frame").hidden = $("scale-frame").disabled = !clip;
  if (!clip) {
    players.film.stop();
    if (state.scale === "frame") state.scale = "own";
    return;
  }
  const frame = frameNow(result),
    [steps, rows, columns] = result.media[0].grid;
  $("frame").max = clip.frames.length - 1;
  $("frame").value = frame;
  say($("frame-told"), frameWords(result));
  $("frame").setAttribute("aria-valuetext", frameWords(result));
  const overEven = (values) => {
    const sums = Array.from({ length: steps }, (_, step) =>
      sum(values.subarray(step * rows * columns, (step + 1) * rows * columns)),
    );
    return sums.map((one) => (one * steps) / (sum(sums) || 1));
  };
  const plain = { ...panel, map: result.headline, source: 0, row: 0, head: null };
  const stairs = (of) => ({ x: clip.edges_s, y: overEven(valuesOf(of).values), steps: true });
  const lines = [
    { label: t("timeline_now"), kind: "main", ...stairs(panel) },
    { label: t("timeline_chance"), kind: "chance", x: [clip.edges_s[0], clip.edges_s[steps]], y: [1, 1] },
  ];
  if (describe(plain) !== describe(panel))
    lines.unshift({ label: t("timeline_headline"), kind: "other", ...stairs(plain) });
  if (clip.alone.length)
    lines.push({ label: t("timeline_alone"), kind: "alone", x: clip.times_s, y: clip.alone, dots: true });
  const near = (at) => clip.times_s.reduce((best, time, i) => (time <= at + 1e-9 ? i : best), 0);
  $("timeline").replaceChildren(
    chart({
      width: Math.max($("timeline").clientWidth, 320),
      lines,
      xLabel: t("seconds"),
      yLabel: t("chance_axis"),
      label: t("timeline_hint"),
      at: clip.times_s[frame],
      pick: (at) => change(() => (state.frame = near(at))),
    }),
  );
  $("passes").hidden = !clip.passes.length;
  $("passes")
    .querySelector("tbody")
    .replaceChildren(
      ...clip.passes.map((one) =>
        make("tr", {}, make("td", {}, one.when), make("td", {}, one.answer || t("no_answer"))),
      ),
    );
}

function drawFoot() {
  const result = resultOf(active()),
    made = result.made;
  const lines = [
    ...result.left_out.map(([what, ...of]) => t(`left_${what}`, ...of)),
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

/** Draw groups of buttons anew, and leave the focus on the same one of the same group. */
function keepingFocus(drawThem) {
  const group = document.activeElement?.closest("#questions, #question, #answer, #queries, #sources, #lookers");
  const place = group ? [...group.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  drawThem();
  if (place >= 0) group.querySelectorAll("button")[place]?.focus({ preventScroll: true });
}

function drawAll() {
  translate();
  $("alpha-told").textContent = percent(state.alpha);
  $("compare").setAttribute("aria-pressed", String(state.panels.length > 1));
  keepingFocus(() => {
    drawQuestions();
    drawWords();
    drawLayers();
    drawLookers();
  });
  drawHeads();
  drawFilm();
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
  listenToTop(() => change(() => {}));
  listen();
  addEventListener("resize", () => change(() => {}));
  buildPanels();
  drawAll();
  document.documentElement.dataset.state = "coarse";
  await unpackAll(
    () => state.panels.map((panel) => shownBy(panel).block),
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

begin().catch((fault) => {
  $("progress").textContent = t("broken", fault.message);
  throw fault;
});
