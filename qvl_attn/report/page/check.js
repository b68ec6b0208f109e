// The page of a check: begins, listens, draws.

Object.assign(WORDS.en, {
  by_layer: "By layer", by_head: "By head", figure: "Figure", samples: "Samples", sort: "Sort by", answers: "Answer", grounding: "Map", all: "all",
  right: "right", wrong: "wrong", grounded: "points into a box", elsewhere: "points elsewhere", search: "Search", outlines: "boxes", table: "All samples as a table",
  more: "More", close: "Close", error: "error", accepted: "(accepted: {0})", accepted_head: "accepted", judged: "judged", id: "id", order: "order of the data set",
  up: "smallest first", down: "largest first", mean: "mean", interval: "95 % interval", c_chance: "chance", c_uniform: "uniform map", c_centre: "centre", c_other: "another picture's boxes",
  all_layers: "all layers", method_name: "method", f_pointing: "pointing game", f_mass: "share in the box", f_lift: "lift over the area", f_auc: "ROC-AUC", f_iou: "IoU (Otsu)",
  f_vision_mass: "share on vision", f_entropy: "entropy", f_top10_share: "ten strongest cells", f_spread: "spread", f_distance: "distance to the box", f_area: "area of the boxes",
  f_deletion_blur: "deletion, blur (nats)", f_deletion_mean: "deletion, mean colour (nats)", f_insertion_blur: "insertion, blur (nats)", f_insertion_mean: "insertion, mean colour (nats)",
  f_weights_rank: "like scrambled weights'", f_question_rank: "like another question's", f_picture_rank: "like another picture's",
  counted: "{0} of {1} samples pass; {2} of them have a picture here. Kept are a random choice by a hash of the ids, and the best and the worst.",
  rows_left_out: "{0} further samples are in scores.jsonl alone.", title: "{0} on {1}", said: "{0} samples about {1} pictures or clips, {2} with boxes, {3} errors · headline: {4}",
  accuracy: "answers right: {0} ({1})", steps_shown: "{0} of {1} steps: {2}", brightest: "brightest: {0} = {1}", no_picture: "No picture of this sample was kept.",
  mean_of: "mean over samples", layer_values: "layer {0}: {1}{2}", chance_is: ", chance {0}", outlined: "outlined: the heads of the headline",
  heads_hint: "Rows are layers, columns heads; arrow keys move, Enter tells.", made_check: "Made by qvl-attn {0} with {1} ({2}), {3} attention in {4} on {5}.",
  shaded: "shaded: the layers of the headline",
});
Object.assign(WORDS.zh, {
  by_layer: "逐层", by_head: "逐头", figure: "指标", samples: "样本", sort: "排序", answers: "回答", grounding: "热图", all: "全部",
  right: "正确", wrong: "错误", grounded: "指向框内", elsewhere: "指向别处", search: "搜索", outlines: "标注框", table: "全部样本（表格）",
  more: "更多", close: "关闭", error: "出错", accepted: "（可接受：{0}）", accepted_head: "可接受", judged: "判定", id: "编号", order: "数据集顺序",
  up: "从小到大", down: "从大到小", mean: "均值", interval: "95 % 区间", c_chance: "随机水平", c_uniform: "均匀图", c_centre: "中心图", c_other: "别的图的框",
  all_layers: "全部层", method_name: "方法", f_pointing: "指向游戏", f_mass: "框内比例", f_lift: "相对面积的提升", f_auc: "ROC-AUC", f_iou: "IoU（Otsu）",
  f_vision_mass: "落在图像上的比例", f_entropy: "熵", f_top10_share: "最强十格", f_spread: "分散程度", f_distance: "到框的距离", f_area: "框的面积",
  f_deletion_blur: "删除，模糊（纳特）", f_deletion_mean: "删除，平均色（纳特）", f_insertion_blur: "插入，模糊（纳特）", f_insertion_mean: "插入，平均色（纳特）",
  f_weights_rank: "与打乱权重的相似", f_question_rank: "与别的问题的相似", f_picture_rank: "与别的图的相似",
  counted: "{0} / {1} 个样本符合，其中 {2} 个在此有图。保留的是按编号哈希随机选出的，以及最好与最差的。",
  rows_left_out: "另有 {0} 个样本只在 scores.jsonl 中。", title: "{0}，数据 {1}", said: "{0} 个样本，{1} 个图像或视频，{2} 个有框，{3} 个出错 · 主图：{4}",
  accuracy: "回答正确率：{0}（{1}）", steps_shown: "{1} 步中的 {0} 步：{2}", brightest: "最亮：{0} = {1}", no_picture: "此样本没有保留图像。",
  mean_of: "样本均值", layer_values: "第 {0} 层：{1}{2}", chance_is: "，随机水平 {0}", outlined: "框出：主图的头",
  heads_hint: "行是层，列是头；方向键移动，回车显示数值。", made_check: "由 qvl-attn {0} 制作；模型 {1}（{2}），{3} 注意力，{4}，{5}。",
  shaded: "阴影：主图的层",
});

const plots = { layerFigure: "pointing", headFigure: "pointing", layer: null, head: null };

function options(select, names, chosen, words = (name) => t(`f_${name}`)) {
  select.replaceChildren(...names.map((name) => make("option", { value: name }, words(name))));
  select.value = chosen;
}

/** Where its heads are named, those that hold one. */
function headlineLayers() {
  const { layers = [], heads } = DATA.headline_of ?? {};
  return heads ? [...new Set(heads.map(([layer]) => layer))] : layers;
}

function drawLayerPlot() {
  const rows = DATA.layers, known = DATA.figures.filter((name) => rows.some((row) => row[name] && row[name].mean !== null));
  $("layers-card").hidden = !known.length;
  if (!known.length) return;
  if (!known.includes(plots.layerFigure)) plots.layerFigure = known[0];
  options($("layer-figure"), known, plots.layerFigure);
  const name = plots.layerFigure, of = (key) => rows.map((row) => row[name][key] ?? NaN), x = rows.map((row) => row.layer);
  const lines = [{ label: t("mean_of"), kind: "mean", x, y: of("mean"), low: of("low"), high: of("high") }];
  if ("chance" in rows[0][name]) lines.push({ label: t("c_chance"), kind: "chance", x, y: of("chance") });
  if (name !== "vision_mass" && "other" in rows[0][name]) lines.push({ label: t("c_other"), kind: "beside", x, y: of("other") });
  const headline = headlineLayers(), shaded = headline.length < x.length ? headline.map((layer) => [layer - 0.5, layer + 0.5]) : [];
  $("layers").replaceChildren(chart({ width: Math.max($("layers").clientWidth, 320), lines, shaded, whole: true, xLabel: t("layer"), yLabel: t(`f_${name}`), label: `${t("by_layer")}: ${t(`f_${name}`)}`,
    at: plots.layer ?? undefined, pick: (at) => { plots.layer = Math.min(Math.max(Math.round(at), x[0]), x[x.length - 1]); drawLayerPlot(); } }));
  const row = rows.find((one) => one.layer === plots.layer), one = row?.[name];
  const chance = one && one.chance !== null && one.chance !== undefined ? t("chance_is", number(one.chance)) : "";
  $("layer-told").textContent = one ? t("layer_values", plots.layer, `${number(one.mean)} (${interval(one)})`, chance) : shaded.length ? t("shaded") : "";
}

function drawHeadPlot() {
  const heads = DATA.heads;
  $("heads-card").hidden = !heads;
  if (!heads) return;
  options($("head-figure"), Object.keys(heads), plots.headFigure);
  const values = heads[plots.headFigure].map((row) => row.map((value) => value ?? NaN)), layers = DATA.layers.map((row) => row.layer);
  const words = (layer, head) => `${t("head_of", layers[layer], head)}: ${number(heads[plots.headFigure][layer][head])}`;
  const had = $("heads").contains(document.activeElement);
  $("heads").replaceChildren(matrix({ values, layers, heads: [...values[0].keys()], chosen: plots.head, label: t("by_head"), words, marked: DATA.headline_of?.heads ?? [],
    pick: (layer, head) => { plots.head = [layer, head]; drawHeadPlot(); } }));
  if (had) $("heads").querySelector("[tabindex='0']").focus();
  $("heads-told").textContent = `${t("heads_ends", ...endsOf(values).map((value) => number(value)))} ` + (plots.head ? words(...plots.head) : `${t("heads_hint")}${DATA.headline_of?.heads ? ` ${t("outlined")}.` : ""}`);
}

function drawSamples() {
  const found = sifted(), cards = found.filter((row) => cardOf.has(row));
  sight.disconnect();
  $("cards").replaceChildren(...cards.map(cardElement));
  $("count").textContent = t("counted", found.length, DATA.rows.length, cards.length) + (DATA.left_out ? ` ${t("rows_left_out", DATA.left_out)}` : "");
  $("order").textContent = t(sieve.down ? "down" : "up");
  $("order").setAttribute("aria-pressed", String(sieve.down));
  drawRows();
}

function drawAll() {
  translate();
  const { model, accuracy } = DATA;
  $("figures-title").textContent = t("title", model.name, DATA.data);
  const right = accuracy && accuracy.mean !== null ? ` · ${t("accuracy", number(accuracy.mean), interval(accuracy))}` : "";
  $("said").textContent = t("said", DATA.samples, DATA.pictures, DATA.with_boxes, DATA.errors, DATA.headline_map) + right;
  $("notes").replaceChildren(...DATA.notes.map((note) => make("li", {}, note)));
  $("made").textContent = t("made_check", model.qvl_attn, model.name, String(model.revision).slice(0, 12), model.attention, model.dtype, model.device);
  options($("sort"), ["order", ...DATA.figures, "area"], sieve.sort, (name) => (name === "order" ? t("order") : t(`f_${name}`)));
  for (const name of ["right", "grounded", "search", "colormap", "interp"]) $(name).value = sieve[name];
  drawFigures();
  drawHeadPlot(); // which takes its half of the line
  drawLayerPlot();
  drawSamples();
}

function begin() {
  $("colormap").replaceChildren(...Object.keys(TABLES).map((name) => make("option", { value: name }, name)));
  listenToTop(drawAll);
  for (const name of ["sort", "right", "grounded"]) $(name).addEventListener("change", () => { sieve[name] = $(name).value; rowsShown = AT_ONCE; drawSamples(); });
  $("search").addEventListener("input", () => { sieve.search = $("search").value; rowsShown = AT_ONCE; drawSamples(); });
  $("order").addEventListener("click", () => { sieve.down = !sieve.down; drawSamples(); });
  for (const name of ["colormap", "interp"]) $(name).addEventListener("change", () => { sieve[name] = $(name).value; redrawCards(); });
  $("alpha").addEventListener("input", () => { sieve.alpha = Number($("alpha").value); redrawCards(); });
  $("outlines").addEventListener("change", () => { sieve.outlines = $("outlines").checked; redrawCards(); });
  $("more").addEventListener("click", () => { rowsShown += AT_ONCE; drawRows(); });
  $("layer-figure").addEventListener("change", () => { plots.layerFigure = $("layer-figure").value; drawLayerPlot(); });
  $("head-figure").addEventListener("change", () => { plots.headFigure = $("head-figure").value; drawHeadPlot(); });
  addEventListener("resize", drawLayerPlot);
  drawAll();
}

// The blocks follow the script, and a card is drawn when it comes into sight.
addEventListener("DOMContentLoaded", () => {
  begin();
  document.documentElement.dataset.state = "fine";
});
