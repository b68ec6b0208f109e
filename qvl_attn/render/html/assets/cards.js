// Samples as cards: pictures or steps with the headline's map and the boxes. A card is drawn when it becomes visible.

const ROWS_AT_ONCE = 100;
const filters = {
  sort: "order",
  down: false,
  right: "",
  grounded: "",
  search: "",
  outlines: true,
  shown: ROWS_AT_ONCE, // rows of the table
};
const state = { alpha: 0.5, colormap: "inferno", interp: "linear" };
const cardOf = new Map(DATA.cards.map((card) => [card.row, card]));
const figureAt = (name) => DATA.figures.indexOf(name);

const verdictOf = (row) => (row.error ? "error" : row.right === null ? "" : row.right ? "right" : "wrong");

/** Indices of the rows that pass the filters, sorted; rows without a value come last. */
function filteredRows() {
  const search = filters.search.trim().toLowerCase();
  const passes = (row) =>
    (!filters.right || verdictOf(row) === filters.right) &&
    (!filters.grounded || row.grounded === (filters.grounded === "grounded")) &&
    (!search ||
      [row.id, row.question, row.answer, ...row.references, ...row.media].some((text) =>
        text.toLowerCase().includes(search),
      ));
  const matches = [...DATA.rows.entries()].filter(([, row]) => passes(row)).map(([number]) => number);
  const valueOf = (number) =>
    filters.sort === "order"
      ? number
      : filters.sort === "area"
        ? DATA.rows[number].area
        : DATA.rows[number].figures[figureAt(filters.sort)];
  const sign = filters.down ? -1 : 1;
  return matches.sort((a, b) => {
    const [first, second] = [valueOf(a), valueOf(b)];
    if (first === null || second === null) return Number(first === null) - Number(second === null) || a - b;
    return sign * (first - second) || a - b;
  });
}

const drawnCards = new WeakMap();
const cardObserver = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawCard(entry.target).catch(showFault);
  },
  { rootMargin: "400px" },
);

/** A picture of a card, as `buildPicture` takes it. */
function mediumOf(card, i) {
  const size_px = card.sizes_px[i],
    [width, height] = size_px;
  return { picture: card.pictures[i], size_px, drawn_px: size_px, xs: [0, width], ys: [0, height] };
}

/** The pictures of a card, side by side; their maps are drawn when they become visible. */
function pictureRow(card) {
  const media = card.pictures.map((_, i) => mediumOf(card, i)),
    row = make("div", { class: "pictures" }, ...media.map(buildPicture));
  media.forEach((medium, i) => (row.children[i].style.flexGrow = String(aspectOf(medium))));
  row.style.setProperty("--aspects", String(sum(media.map(aspectOf))));
  drawnCards.set(row, card);
  cardObserver.observe(row);
  return row;
}

async function drawCard(row) {
  const card = drawnCards.get(row);
  if (!BLOCKS[card.block]) await unpack(card.block);
  const values = rowOf(card.block, 0);
  let start = 0;
  for (const [i, figure] of [...row.children].entries()) {
    const [rows, columns] = card.grids[i],
      cells = values.subarray(start, start + rows * columns),
      canvas = figure.querySelector("canvas");
    start += cells.length;
    canvas.style.opacity = state.alpha;
    paint(canvas, cells, rows, columns, card.high, state.colormap, state.interp);
    const inPixels = (box) => box.map((share, edge) => share * card.sizes_px[i][edge % 2]);
    const marks = (filters.outlines ? card.boxes[i] : []).flatMap((box) => outline(inPixels(box), "box"));
    figure.querySelector("svg").replaceChildren(...marks);
  }
}

/** Tags of a row: whether its answer is right, and its map grounded. */
function verdicts(row) {
  const tags = [];
  if (row.error) tags.push(make("span", { class: "tag bad" }, t("error")));
  if (row.right !== null && !row.error)
    tags.push(make("span", { class: `tag ${row.right ? "good" : "bad"}` }, t(row.right ? "right" : "wrong")));
  if (row.grounded !== null)
    tags.push(
      make("span", { class: `tag ${row.grounded ? "good" : "bad"}` }, t(row.grounded ? "grounded" : "elsewhere")),
    );
  return tags;
}

function figureText(row, name) {
  const value = name === "area" ? row.area : row.figures[figureAt(name)];
  return value === null ? "–" : compact(value);
}

function cardElement(number) {
  const row = DATA.rows[number],
    names = ["order", "lift"].includes(filters.sort) ? ["lift", "mass"] : [filters.sort, "lift"];
  const defined = names.filter((name) => name === "area" || row.figures[figureAt(name)] !== null);
  const open = make("button", { type: "button", class: "open" }, row.question);
  open.addEventListener("click", () => openSample(number));
  const pictures = pictureRow(cardOf.get(number));
  pictures.addEventListener("click", () => openSample(number));
  return make(
    "article",
    { class: "sample" },
    pictures,
    open,
    make(
      "p",
      { class: "answer" },
      row.answer || t("no_answer"),
      ...(row.right === false ? [make("small", {}, ` ${t("accepted", row.references.join(" | "))}`)] : []),
    ),
    make(
      "p",
      { class: "hint" },
      ...verdicts(row),
      ` ${defined.map((name) => `${t(`f_${name}`)} ${figureText(row, name)}`).join(" · ")}`,
    ),
  );
}

/** Draw the maps of all cards again, after colours, opacity or boxes changed. */
function redrawCards() {
  for (const row of document.querySelectorAll(".sample .pictures, #sample-card .pictures")) {
    cardObserver.unobserve(row);
    cardObserver.observe(row);
  }
}
