// Whether the maps hold: what becomes of the answer's probability as cells go, and how alike a map is to others.

const SERIES = ["main", "mean", "third", "fourth", "fifth", "sixth"];

function drawFaith() {
  const faith = resultOf(active()).faith;
  $("faith").hidden = !faith;
  if (!faith) return;
  const { curves } = faith,
    choice = { kind: $("faith-kind").value, fill: $("faith-fill").value };
  $("faith-curves").hidden = !curves;
  if (curves) {
    const [kind, fill] = [curves.kinds.indexOf(choice.kind), curves.fills.indexOf(choice.fill)];
    const named = { random: "chance", uniform: "beside" };
    const lines = curves.names.map((name, i) => ({
      label: `${t(`map_${name}`)} (${curves.areas[name][`${choice.kind}_${choice.fill}`].toFixed(2)})`,
      kind: named[name] ?? SERIES[i % SERIES.length],
      x: curves.shares.map((share) => 100 * share),
      y: curves.logprobs[i][kind][fill].map((value) => Math.exp(value)),
    }));
    $("faith-chart").replaceChildren(
      chart({
        width: Math.max($("faith-chart").clientWidth, 320),
        lines,
        xLabel: t(`faith_x_${choice.kind}`),
        yLabel: t("faith_y"),
        label: t("faith"),
      }),
    );
  }
  const number = (value) => (value === null ? "–" : value.toFixed(2));
  const rows = Object.entries(faith.sanity).flatMap(([name, sanity]) =>
    [sanity.weights[sanity.weights.length - 1], sanity.question, sanity.picture].map((one) =>
      make(
        "tr",
        {},
        ...[t(`map_${name}`), one.label, number(one.rank_correlation), number(one.ssim)].map((text) =>
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
