// Charts of an encoder's statistics by layer: mean and range of the heads, and the value of uniform attention.

function drawStatistics() {
  const panel = active(),
    result = resultOf(panel),
    x = [...Array(result.layer_count).keys()],
    head = headNow(panel),
    layer = Math.max(panel.layer ?? 0, 0),
    number = head === null ? null : mapOf(panel).heads.numbers[head];
  const charts = result.statistics.map(({ name, values, chance }) => {
    const mean = values.map((heads) => sum(heads) / heads.length);
    /** @type {Line[]} */
    const lines = [
      {
        label: t("figures_mean"),
        kind: "mean",
        x,
        y: mean,
        low: values.map((heads) => Math.min(...heads)),
        high: values.map((heads) => Math.max(...heads)),
      },
      { label: t("figures_chance"), kind: "chance", x, y: chance },
    ];
    if (head !== null)
      lines.push({ label: t("figures_head", number), kind: "main", x, y: values.map((heads) => heads[head]) });
    const value = head === null ? mean[layer] : values[layer][head],
      text = t("at_layer", layer, compact(value), compact(chance[layer]));
    const figure = chart({
      width: 380,
      lines,
      xLabel: t("layer"),
      yLabel: t(`f_${name}`),
      label: `${t(`f_${name}`)}. ${text}`,
      at: layer,
      whole: true,
      pick: (at) => change(() => chooseLayerNear(Math.round(at))),
    });
    const key = figure.querySelector("figcaption");
    $("figures-key").replaceChildren(...key.children);
    key.replaceWith(make("figcaption", { class: "hint" }, text));
    return figure;
  });
  $("figures").replaceChildren(...charts);
}

/** Choose a layer, or the first or last one if it is out of range. */
function chooseLayerNear(layer) {
  const panel = active(),
    map = mapOf(panel),
    numbers = layersOf(map).map((source) => source.layers[0]);
  if (!numbers.length) return (panel.layer = Math.min(Math.max(layer, 0), resultOf(panel).layer_count - 1));
  const within = Math.min(Math.max(layer, numbers[0]), numbers[numbers.length - 1]);
  chooseSource(panel, firstLayer(map) + numbers.indexOf(within));
}
