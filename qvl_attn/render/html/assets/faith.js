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
  fillTable(
    $("faith-sanity"),
    ["map", "faith_changed", "faith_rank", "faith_ssim"].map((key) => t(key)),
    Object.entries(faith.sanity).flatMap(([name, { weights, question, picture }]) =>
      [weights[weights.length - 1], question, picture].map(({ label, rank_correlation, ssim }) => [
        t(`map_${name}`),
        label,
        fixed(rank_correlation, 2),
        fixed(ssim, 2),
      ]),
    ),
  );
}
