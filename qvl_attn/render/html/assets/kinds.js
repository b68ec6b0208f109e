// The kinds of results, and what is a kind's own. Everything else is drawn alike for all, also for kinds not named here.

/**
 * sections: what is drawn besides, by the name of its elements' `data-section`. Functions of a panel, each optional:
 * share, hint, notice, uniform and describeMap return texts; so does mapName, of a map; chips returns more buttons of queries; select is called
 * for a clicked cell; savedWords returns the texts above a saved view; leftOut describes what was left out.
 */
const KINDS = {
  question: {
    sections: { words: drawWords, heads: drawHeadGrid, faith: drawFaith },
    hint: () => t("words_hint"),
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
