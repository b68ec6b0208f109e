// The controls of colours; each page draws its maps in the colours that its `state` names.

/** Connect the controls; `redraw` draws what has these colours again. */
function listenToColours(redraw) {
  const choose = (name, value) => {
    state[name] = value;
    drawColours();
    redraw();
  };
  $("alpha").addEventListener("input", () => choose("alpha", Number($("alpha").value)));
  for (const name of ["colormap", "interp"]) $(name).addEventListener("change", () => choose(name, $(name).value));
}

function drawColours() {
  fillList(
    $("colormap"),
    Object.keys(TABLES).map((name) => [name, name]),
    state.colormap,
  );
  $("interp").value = state.interp;
  $("alpha-value").textContent = percent(state.alpha);
}
