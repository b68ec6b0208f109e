// Samples as cards: pictures or steps with the headline's map and the boxes; each drawn when it comes into sight.

const sieve = {
  sort: "order",
  down: false,
  right: "",
  grounded: "",
  search: "",
  alpha: 0.5,
  colormap: "inferno",
  interp: "linear",
  outlines: true,
};
const cardOf = new Map(DATA.cards.map((card) => [card.row, card]));
const figureAt = (name) => DATA.figures.indexOf(name);

const verdictOf = (row) => (row.error ? "error" : row.right === null ? "" : row.right ? "right" : "wrong");

/** Rows that pass the sieve, in its order; what has no value comes last. */
function sifted() {
  const words = sieve.search.trim().toLowerCase();
  const passes = (row) =>
    (!sieve.right || verdictOf(row) === sieve.right) &&
    (!sieve.grounded || row.grounded === (sieve.grounded === "grounded")) &&
    (!words ||
      [row.id, row.question, row.answer, ...row.references, ...row.media].some((text) =>
        text.toLowerCase().includes(words),
      ));
  const found = [...DATA.rows.entries()].filter(([, row]) => passes(row)).map(([number]) => number);
  const valueOf = (number) =>
    sieve.sort === "order"
      ? number
      : sieve.sort === "area"
        ? DATA.rows[number].area
        : DATA.rows[number].figures[figureAt(sieve.sort)];
  const sign = sieve.down ? -1 : 1;
  return found.sort((a, b) => {
    const [one, other] = [valueOf(a), valueOf(b)];
    if (one === null || other === null) return (one === null) - (other === null) || a - b;
    return sign * (one - other) || a - b;
  });
}

const drawnCards = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawCard(entry.target);
  },
  { rootMargin: "400px" },
);

/** The pictures of a card, side by side; what they hold is drawn later. */
function pictureRow(card) {
  const row = make(
    "div",
    { class: "pictures" },
    ...card.pictures.map((picture) =>
      make(
        "figure",
        { class: "picture" },
        make("img", { alt: "", src: pictureUrl(picture), draggable: false }),
        make("canvas"),
        draw("svg", { "viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "aria-hidden": "true" }),
      ),
    ),
  );
  drawnCards.set(row, card);
  sight.observe(row);
  return row;
}

async function drawCard(row) {
  const card = drawnCards.get(row);
  if (!BLOCKS[card.block] && $(`block-${card.block}`)) await unpack(card.block);
  const values = rowOf(card.block, 0);
  let start = 0,
    aspects = 0;
  for (const [i, figure] of [...row.children].entries()) {
    const [rows, columns] = card.grids[i],
      [img, canvas, svg] = figure.children;
    await img.decode().catch(() => {});
    const [width, height] = [img.naturalWidth || 480, img.naturalHeight || 360];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    figure.style.flexGrow = String(width / height);
    figure.style.aspectRatio = `${width} / ${height}`;
    canvas.style.opacity = sieve.alpha;
    paint(
      canvas,
      values.subarray(start, start + rows * columns),
      rows,
      columns,
      card.high,
      sieve.colormap,
      sieve.interp,
    );
    start += rows * columns;
    aspects += width / height;
    svg.replaceChildren(
      ...(sieve.outlines ? card.boxes[i] : []).flatMap(([x0, y0, x1, y1]) =>
        ["under box", "box"].map((kind) =>
          draw("rect", { x: 1000 * x0, y: 1000 * y0, width: 1000 * (x1 - x0), height: 1000 * (y1 - y0), class: kind }),
        ),
      ),
    );
  }
  row.style.setProperty("--aspects", aspects);
}

/** What was judged of a row: answer and grounding. */
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

function figureWords(row, name) {
  const value = name === "area" ? row.area : row.figures[figureAt(name)];
  return value === null ? "–" : compact(value);
}

function cardElement(number) {
  const row = DATA.rows[number],
    chosen = ["order", "lift"].includes(sieve.sort) ? ["lift", "mass"] : [sieve.sort, "lift"];
  const known = chosen.filter((name) => name === "area" || row.figures[figureAt(name)] !== null);
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
      ` ${known.map((name) => `${t(`f_${name}`)} ${figureWords(row, name)}`).join(" · ")}`,
    ),
  );
}

/** Draw the map of each card that is in the page again: colours, opacity or boxes have changed. */
function redrawCards() {
  for (const row of document.querySelectorAll(".sample .pictures, #sample-card .pictures")) {
    sight.unobserve(row);
    sight.observe(row);
  }
}
