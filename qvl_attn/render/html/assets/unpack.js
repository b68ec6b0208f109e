// From text in the page to arrays: see pack.py. Coarse maps are there first; the others follow while the page is in use.

const DATA = JSON.parse($("data").textContent);

/** Of each block its (rows, cells) values, row after row; undefined until it is unpacked. */
const BLOCKS = new Array(DATA.blocks.length);

const HALVES = (() => {
  const values = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31,
      fraction = bits & 1023;
    values[bits] = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  }
  return values;
})();

function bytesOf(text) {
  const packed = atob(text),
    bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  if (!("DecompressionStream" in globalThis)) throw new Error(t("old_browser"));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

/** Unpack a block; its text is let go. */
async function unpack(number) {
  const element = $(`block-${number}`);
  const raw = await inflated(bytesOf(element.textContent));
  element.remove();
  const [rows, cells] = DATA.blocks[number],
    values = new Float32Array(rows * cells);
  const upper = 4 * rows,
    lower = upper + rows * cells;
  for (let row = 0; row < rows; row++) {
    const unit = raw.getFloat32(4 * row, true) / DATA.top;
    for (let i = row * cells; i < (row + 1) * cells; i++) {
      values[i] = HALVES[(raw.getUint8(upper + i) << 8) | raw.getUint8(lower + i)] * unit;
    }
  }
  BLOCKS[number] = values;
}

/** One row of a block, or undefined. */
function rowOf(number, row) {
  const cells = DATA.blocks[number][1];
  return BLOCKS[number]?.subarray(row * cells, (row + 1) * cells);
}

/** Whether an element has come to its end: the parser goes on behind it, or is done. */
const isWhole = (element) => element && (element.nextSibling !== null || document.readyState !== "loading");

const pause = () => new Promise((done) => setTimeout(done));

/** Unpack blocks one by one, what is looked at before the others. */
async function unpackAll(wanted, told) {
  const left = new Set(BLOCKS.keys());
  for (const number of left) if (BLOCKS[number]) left.delete(number);
  const total = left.size;
  while (left.size) {
    const there = (number) => left.has(number) && isWhole($(`block-${number}`));
    const next = wanted().find(there) ?? [...left].find(there);
    if (next === undefined) {
      if (document.readyState !== "loading") throw new Error("the file is cut off");
      await pause();
      continue;
    }
    left.delete(next);
    await unpack(next);
    told(total - left.size, total);
    await pause();
  }
}

const pictureUrl = (number) => `data:image/jpeg;base64,${$(`picture-${number}`).textContent}`;
