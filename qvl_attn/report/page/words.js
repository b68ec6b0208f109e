// What the page says, in English and Chinese, and how numbers are written.

const WORDS = {
  en: {
    theme: "Light / dark", asked: "Asked and answered", questions: "Questions", queries: "Whose attention",
    words_hint: "Click a word to see where the model looked at it, or while it wrote it.",
    maps: "Heat maps", play: "Play", stop: "Stop", frame: "Frame", passes: "What each prompt answered",
    timeline_hint: "When it looked: attention on each step over that of a uniform map. Click to go there.",
    honest: "A map shows where attention went. A good map is not a right answer.",
    layers: "Layers", map: "Map", averages: "Averages", layer: "Layer",
    shares_hint: "Bars: the share of this attention that goes to the picture at all, layer by layer.",
    heads: "Heads", heads_by: "Coloured by", by_mass: "share on the picture", by_top10: "share of its ten strongest cells",
    heads_hint: "Rows are layers, columns heads. Click one to see its map; arrow keys move.",
    heads_ends: "Darkest: {0}, brightest: {1}.",
    colours: "Drawing", opacity: "Opacity", colormap: "Colours", cells: "Cells", smooth: "smooth", boxes: "as boxes",
    scale: "Scale", scale_own: "this map's own", scale_shared: "one for all layers", scale_frame: "each frame's own",
    compare: "Side by side", save: "Save this view as PNG", cell: "Cell",
    cell_hint: "Point at a cell, or move over the picture with the arrow keys. Click, or Enter, to see which words look at it.",
    lookers: "Words that look at this cell", strongest: "The ten strongest cells",
    keys_title: "Keys",
    keys: "[ and ]: layer before and after · , and .: frame before and after · p: play the layers · arrow keys on the picture: from cell to cell, Enter to keep one, Escape to let go · arrow keys in the heads: from head to head.",
    headline: "Headline", all_layers: "All layers", layers_of: "layers {0}", layer_of: "layer {0}", of_layers: "of 0-{0}",
    mean_heads: "mean of all {0} heads", heads_named: "heads {0}", head_of: "layer {0}, head {1}",
    q_question: "whole question", q_last: "last prompt token", q_answer: "whole answer", q_text: "“{0}”",
    t_question: "attention of the question, {0} tokens", t_last: "attention of the last prompt token, which produces the answer's first",
    t_answer: "attention of the {0} tokens that produced the answer", t_text: "attention of “{0}”, {1} tokens",
    "t_question word": "attention of “{0}” in the question", "t_answer word": "attention that produced “{0}” of the answer",
    no_answer: "(no answer)", supplied: "supplied answer; the model's own: {0}", method: "method {0}",
    share: "{0} of this attention goes to the picture", even: "{0}× even", high: "brightest: {0} = {1} · {2} of {3} cells above",
    told_cell: "{0}row {1}, column {2}: {3} = {4} · rank {5} of {6} · pixels x {7}-{8}, y {9}-{10}",
    picture_n: "picture {0}, ", step_n: "step {0}, ", loading: "sharpening: {0} of {1} maps",
    all_there: "", left_out: "Left out: {0}.", made: "Made by qvl-attn {0} with {1} ({2}), {3} attention in {4} on {5}, transformers {6}, torch {7}.",
    frame_told: "{0} s · frame {1} of {2} · step {3} of {4}", looked_rank: "rank", looked_value: "attention", looked_even: "× even",
    looked_where: "where", picture_label: "{0}: {1}. Arrow keys move over the cells.", cell_of: "Words that look at row {0}, column {1}, most above even first",
    a_panel: "Panel {0}", shown_in: "shown in panel {0}", timeline_now: "this map", timeline_headline: "headline", timeline_chance: "even",
    timeline_alone: "frames asked alone, over their mean", seconds: "seconds", chance_axis: "× even", empty: "No attention on the picture: nothing to draw.",
    answer: "Answer", question: "Question", removed: "crossed out: cells that the method took out",
    unscaled: "values of this method have no unit", broken: "This page is damaged: {0}.",
    faith: "Does the map hold?", faith_cells: "Cells are", faith_deletion: "taken away, strongest first", faith_insertion: "put back, strongest first",
    faith_by: "hidden by", faith_blur: "a blur", faith_mean: "the mean colour", faith_x_deletion: "% of the cells gone", faith_x_insertion: "% of the cells back",
    faith_y: "probability of the answer", faith_changed: "changed", faith_rank: "rank correlation", faith_ssim: "SSIM",
    faith_hint: "In brackets the mean of the curve in nats: of taking away the lower the better, of putting back the higher. A map that is no better than random orders says nothing about what the answer rests on.",
    faith_like: "A map that stays alike when weights, question or picture change does not depend on them.",
    map_headline: "headline", map_random: "random orders", map_uniform: "the same everywhere", map_mean: "mean",
  },
  zh: {
    theme: "浅色 / 深色", asked: "问与答", questions: "问题", queries: "谁的注意力",
    words_hint: "点击一个词，看模型读到它（或写出它）时看向哪里。",
    maps: "热图", play: "播放", stop: "停止", frame: "帧", passes: "每次提问的回答",
    timeline_hint: "何时在看：每一步的注意力与均匀分布之比。点击可跳转。",
    honest: "热图只说明注意力去了哪里。图好看不等于答案正确。",
    layers: "层", map: "图", averages: "平均", layer: "层",
    shares_hint: "柱：逐层，这份注意力中有多少落在图像上。",
    heads: "注意力头", heads_by: "着色依据", by_mass: "落在图像上的比例", by_top10: "最强十格所占比例",
    heads_hint: "行是层，列是头。点击查看；方向键移动。",
    heads_ends: "最暗：{0}，最亮：{1}。",
    colours: "绘制", opacity: "不透明度", colormap: "配色", cells: "格子", smooth: "平滑", boxes: "方格",
    scale: "刻度", scale_own: "本图自己的", scale_shared: "各层共用", scale_frame: "每帧自己的",
    compare: "并排比较", save: "将此视图存为 PNG", cell: "格子",
    cell_hint: "指向一个格子，或用方向键在图上移动。点击或按回车，看哪些词在看它。",
    lookers: "看向此格的词", strongest: "最强的十个格子",
    keys_title: "按键",
    keys: "[ 和 ]：上一层、下一层 · , 和 .：上一帧、下一帧 · p：逐层播放 · 图上的方向键：逐格移动，回车选定，Esc 取消 · 头矩阵中的方向键：逐头移动。",
    headline: "主图", all_layers: "全部层", layers_of: "第 {0} 层", layer_of: "第 {0} 层", of_layers: "（共 0-{0}）",
    mean_heads: "{0} 个头的平均", heads_named: "头 {0}", head_of: "第 {0} 层第 {1} 头",
    q_question: "整个问题", q_last: "提示的最后一个词元", q_answer: "整个回答", q_text: "“{0}”",
    t_question: "问题（{0} 个词元）的注意力", t_last: "提示最后一个词元的注意力（由它产生回答的第一个词元）",
    t_answer: "产生回答的 {0} 个词元的注意力", t_text: "“{0}”（{1} 个词元）的注意力",
    "t_question word": "问题中“{0}”的注意力", "t_answer word": "产生回答中“{0}”的注意力",
    no_answer: "（没有回答）", supplied: "给定的回答；模型自己的：{0}", method: "方法 {0}",
    share: "这份注意力有 {0} 落在图像上", even: "均匀的 {0} 倍", high: "最亮：{0} = {1} · {3} 格中有 {2} 格超出",
    told_cell: "{0}第 {1} 行第 {2} 列：{3} = {4} · 第 {5} 名，共 {6} 格 · 像素 x {7}-{8}，y {9}-{10}",
    picture_n: "图 {0}，", step_n: "第 {0} 步，", loading: "正在变清晰：{0} / {1}",
    all_there: "", left_out: "未包含：{0}。", made: "由 qvl-attn {0} 制作；模型 {1}（{2}），{3} 注意力，{4}，{5}，transformers {6}，torch {7}。",
    frame_told: "{0} 秒 · 第 {1} 帧，共 {2} · 第 {3} 步，共 {4}", looked_rank: "名次", looked_value: "注意力", looked_even: "均匀的倍数",
    looked_where: "位置", picture_label: "{0}：{1}。方向键逐格移动。", cell_of: "看向第 {0} 行第 {1} 列的词，按超出均匀的程度排列",
    a_panel: "面板 {0}", shown_in: "显示于面板 {0}", timeline_now: "此图", timeline_headline: "主图", timeline_chance: "均匀",
    timeline_alone: "单独提问的各帧，与其平均之比", seconds: "秒", chance_axis: "均匀的倍数", empty: "图像上没有注意力：无可绘制。",
    answer: "回答", question: "问题", removed: "打叉：被该方法去掉的格子",
    unscaled: "此方法的数值没有单位", broken: "此页面已损坏：{0}。",
    faith: "热图站得住吗？", faith_cells: "格子", faith_deletion: "由强到弱逐个去掉", faith_insertion: "由强到弱逐个放回",
    faith_by: "遮以", faith_blur: "模糊", faith_mean: "平均色", faith_x_deletion: "已去掉的格子 %", faith_x_insertion: "已放回的格子 %",
    faith_y: "回答的概率", faith_changed: "改变了什么", faith_rank: "秩相关", faith_ssim: "SSIM",
    faith_hint: "括号里是曲线的均值（纳特）：去掉时越低越好，放回时越高越好。与随机顺序无异的热图说明不了回答依据什么。",
    faith_like: "权重、问题或图像变了而热图不变，说明它并不取决于它们。",
    map_headline: "主图", map_random: "随机顺序", map_uniform: "处处相同", map_mean: "mean",
  },
};

const view = { language: (navigator.language || "en").startsWith("zh") ? "zh" : "en" };

function t(key, ...parts) {
  const text = WORDS[view.language][key] ?? WORDS.en[key] ?? key.replace(/^map_/, "");
  return text.replace(/\{(\d+)\}/g, (_, number) => String(parts[Number(number)] ?? ""));
}

const $ = (id) => document.getElementById(id);

/** An element with properties, data and children; text is always text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Put the chosen language into everything that carries a key of `WORDS`. */
function translate() {
  document.documentElement.lang = view.language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  const other = $("language");
  other.textContent = view.language === "zh" ? "English" : "中文";
  other.lang = view.language === "zh" ? "en" : "zh";
}

/** As `numbers.compact`: three digits. */
function compact(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** As `numbers.percent`. */
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

const even = (multiple) => t("even", multiple.toFixed(multiple < 100 ? 1 : 0));

/** `[0, 1, 2, 5]` as `0-2,5`. */
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const last = runs[runs.length - 1];
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

/** The two buttons that every page has. */
function listenToTop(again) {
  $("language").addEventListener("click", () => {
    view.language = view.language === "zh" ? "en" : "zh";
    again();
  });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    again();
  });
}
