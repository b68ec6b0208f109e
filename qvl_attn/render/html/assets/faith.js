// Faithfulness of the maps: deletion and insertion curves, and the sanity checks as a table.

const SERIES = ["main", "mean", "third", "fourth", "fifth", "sixth"];

function drawFaith() {
  const faith = resultOf(active()).faith;
  $("faith").hidden = !faith;
  if (!faith) return;
  const { curves } = faith,
    selected = { kind: $("faith-kind").value, fill: $("faith-fill").value };
  $("faith-curves").hidden = !curves;
  if (curves) {
    const [kind, fill] = [curves.kinds.indexOf(selected.kind), curves.fills.indexOf(selected.fill)];
    const controlKinds = { random: "chance", uniform: "beside" };
    const lines = curves.names.map((name, i) => ({
      label: `${t(`map_${name}`)} (${curves.areas[name][`${selected.kind}_${selected.fill}`].toFixed(2)})`,
      kind: controlKinds[name] ?? SERIES[i % SERIES.length],
      x: curves.shares.map((share) => 100 * share),
      y: curves.logprobs[i][kind][fill].map((value) => Math.exp(value)),
    }));
    $("faith-chart").replaceChildren(
      chart({
        width: Math.max($("faith-chart").clientWidth, 320),
        lines,
        xLabel: t(`faith_x_${selected.kind}`),
        yLabel: t("faith_y"),
        label: t("faith"),
      }),
    );
  }
  const number = (value) => (value === null ? "–" : value.toFixed(2));
  const rows = Object.entries(faith.sanity).flatMap(([name, sanity]) =>
    [sanity.weights[sanity.weights.length - 1], sanity.question, sanity.picture].map((check) =>
      make(
        "tr",
        {},
        ...[t(`map_${name}`), check.label, number(check.rank_correlation), number(check.ssim)].map((text) =>
          make("td", {}, text),
        ),
      ),
    ),
  );
  const table = $("faith-sanity");
  table.tHead.replaceChildren(
    make(
      "tr",
      {},
      ...["map", "faith_changed", "faith_rank", "faith_ssim"].map((key) => make("th", { scope: "col" }, t(key))),
    ),
  );
  table.tBodies[0].replaceChildren(...rows);
}
