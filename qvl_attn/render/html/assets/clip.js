// The frames of a clip, its timeline, and the answers of its passes.

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
  $("frame").max = clip.frames.length - 1;
  $("frame").value = frameNow(result);
  setText($("frame-value"), describeFrame(result));
  $("frame").setAttribute("aria-valuetext", describeFrame(result));
  $("timeline").hidden = $("timeline-hint").hidden = !clip.edges_s;
  if (clip.edges_s) drawTimeline(panel, result, clip);
  const passes = clip.passes ?? [];
  $("passes").hidden = !passes.length;
  fillTable(
    $("passes").querySelector("table"),
    [],
    passes.map((pass) => [pass.when, pass.answer || t("no_answer")]),
  );
}

/** Draw the attention on each step, relative to a uniform map. */
function drawTimeline(panel, result, clip) {
  const [steps, rows, columns] = result.media[0].grid;
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
  if (clip.alone?.length)
    lines.push({ label: t("timeline_alone"), kind: "alone", x: clip.times_s, y: clip.alone, dots: true });
  const frameAt = (time_s) => clip.times_s.reduce((frame, start_s, i) => (start_s <= time_s + 1e-9 ? i : frame), 0);
  $("timeline").replaceChildren(
    chart({
      width: Math.max($("timeline").clientWidth, 320),
      lines,
      xLabel: t("seconds"),
      yLabel: t("chance_axis"),
      label: t("timeline_hint"),
      at: clip.times_s[frameNow(result)],
      pick: (time_s) => change(() => (state.frame = frameAt(time_s))),
    }),
  );
}
