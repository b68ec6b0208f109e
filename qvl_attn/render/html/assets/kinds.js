// The kinds of results, and what is a kind's own. Everything else is drawn alike for all, also for kinds not named here.

/**
 * sections: what is drawn besides, by the name of its elements' `data-section`. The others are optional. Functions of a
 * panel: share, hint, notice, uniform and describeMap return texts, chips more buttons of queries. mapName returns the
 * name of a map; details, of a result, what tells it from others with its title; savedWords, the texts above a saved
 * view; leftOut, the text of what was left out. select is called for a clicked cell.
 */
const KINDS = {
  question: {
    sections: { words: drawWords, heads: drawHeadGrid, faith: drawFaith },
    hint: () => t("words_hint"),
    describeMap: describeMethod,
    details: questionDetails,
    savedWords,
  },
  encoder: {
    sections: { facts: drawFacts, layers: drawLayerThumbs, head_thumbs: drawHeadThumbs, statistics: drawStatistics },
    share: describePatchShare,
    hint: patchHint,
    notice: patchNotice,
    uniform: describeUniform,
    mapName: patchMapName,
    describeMap: describePatchMap,
    details: encoderDetails,
    chips: clickedChip,
    select: selectPatch,
    leftOut: leftOutOfEncoder,
  },
};

const kindOf = (result) => KINDS[result.kind] ?? { sections: {} };

/** Draw what the kind of the active result has of its own, and hide what it does not have. */
function drawSections() {
  const { sections } = kindOf(resultOf(active()));
  for (const element of $$("[data-section]")) element.hidden = !(element.dataset.section in sections);
  for (const word of $$(".word")) word.style.removeProperty("--attention");
  for (const draw of Object.values(sections)) draw();
}
