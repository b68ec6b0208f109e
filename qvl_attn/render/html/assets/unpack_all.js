// Unpacks all blocks while the page is in use.

/** Whether an element is complete: the parser is past it, or has finished. */
const isWhole = (element) => element && (element.nextSibling !== null || document.readyState !== "loading");

const pause = () => new Promise((done) => setTimeout(done));

/** Unpack all blocks one by one, those of `preferred()` first; call `onProgress(done, total)` after each. */
async function unpackAll(preferred, onProgress) {
  const remaining = new Set(BLOCKS.keys());
  for (const number of remaining) if (BLOCKS[number]) remaining.delete(number);
  const total = remaining.size;
  while (remaining.size) {
    const isReady = (number) => remaining.has(number) && isWhole($(`block-${number}`));
    const next = preferred().find(isReady) ?? [...remaining].find(isReady);
    if (next === undefined) {
      if (document.readyState !== "loading") throw new Error("the file is cut off");
      await pause();
      continue;
    }
    remaining.delete(next);
    await unpack(next);
    onProgress(total - remaining.size, total);
    await pause();
  }
}
