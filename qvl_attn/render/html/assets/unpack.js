// Unpacks the page's blocks to arrays: see payload.py.

const DATA = JSON.parse($("data").textContent);

/** The (rows, cells) values of each block, row by row; undefined until the block is unpacked. */
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

async function inflate(bytes) {
  if (!("DecompressionStream" in globalThis)) throw new Error(t("old_browser"));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

/** Unpack a block and remove its text from the page. */
async function unpack(number) {
  const element = $(`block-${number}`);
  const raw = await inflate(bytesOf(element.textContent));
  element.remove();
  const [rows, cells] = DATA.blocks[number],
    values = new Float32Array(rows * cells);
  const upper = 4 * rows,
    lower = upper + rows * cells,
    signed = DATA.signed.includes(number);
  for (let row = 0; row < rows; row++) {
    const unit = raw.getFloat32(4 * row, true) / DATA.top;
    for (let i = row * cells; i < (row + 1) * cells; i++) {
      values[i] = HALVES[(raw.getUint8(upper + i) << 8) | raw.getUint8(lower + i)] * unit;
      if (signed) values[i] = 2 * values[i] - 1;
    }
  }
  BLOCKS[number] = values;
}

/** Say that the page is damaged. */
function showFault(error) {
  $("progress").textContent = t("broken", error.message);
  throw error;
}

/** One row of a block, or undefined if the block is not unpacked yet. */
function rowOf(number, row) {
  const cells = DATA.blocks[number][1];
  return BLOCKS[number]?.subarray(row * cells, (row + 1) * cells);
}

const pictureUrl = (number) => `data:image/jpeg;base64,${$(`picture-${number}`).textContent}`;
