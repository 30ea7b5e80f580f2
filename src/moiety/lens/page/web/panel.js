// Everything of one model: what it is, its answer, picture, words and charts. Two panels stand side by side.

function makePanel(model, state, choose) {
  const legend = make("div", { class: "legend", role: "group", "aria-label": "Experts; press one to see it alone" });
  const chips = model.experts.map(({ label, colour }, expert) => {
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = colour;
    const chip = make("button", { type: "button", class: "chip", "data-expert": expert, "aria-pressed": "false" }, swatch, label);
    chip.addEventListener("click", () => state.pick(label));
    return chip;
  });
  legend.append(...chips);
  const answer = make("p", { class: "answer" });
  const where = make("p", { class: "where" });
  const found = make("p", { class: "found" });
  const seen = make("section", { class: "card seen" });
  const read = make("section", { class: "card read" });
  const charts = make("div", { class: "charts" });
  const root = make("article", { class: "panel" },
    make("div", { class: "about" }, make("h2", {}, model.name), make("p", { class: "soft" }, model.scheme), answer, found, legend, where),
    make("div", { class: "sides" }, seen, read), charts);
  let views = [], question = null;

  const setQuestion = (number) => {
    question = model.questions[number];
    const picture = pictureView(model, question, state);
    const words = wordsView(model, question, state);
    answer.replaceChildren(make("span", { class: "soft" }, "answers "), make("b", {}, question.answer || "(nothing)"));
    if (question.expected !== null) answer.append(make("span", { class: "soft" }, ` · expected: ${question.expected}`));
    seen.replaceChildren(make("h2", {}, "Who read the picture"), picture.view);
    read.replaceChildren(make("h2", {}, "Who read the words"), words.view);
    views = [picture, words];
  };

  const update = (place) => {
    views.forEach((view) => view.update(place));
    const highlight = state.expertOf(model);
    chips.forEach((chip, expert) => chip.setAttribute("aria-pressed", String(highlight === expert)));
    const how = state.all ? `all ${model.numQuestions.toLocaleString("en")} questions` : "this question";
    const single = model.layers.length === 1;
    const sparse = single ? "the only sparse one" : `sparse layer ${place + 1} of ${model.layers.length}`;
    where.textContent = `Layer ${model.layers[place]} of 0–${model.numLayers - 1}, ${sparse} · numbers of ${how}, ${SAID[state.phase]}`;
    found.textContent = readFirst(model, question, state.phase, place);
    const byPhase = Object.fromEntries(PHASES.map((phase) => [phase, numbersOf(model, question, phase, state.all)]));
    const layers = byPhase[state.phase];
    if (!layers) {
      charts.replaceChildren(chart("No decode", "The answer has a single token, which the model never reads again."));
      return;
    }
    charts.classList.toggle("few", single);
    if (single) { // nothing goes over depth; empty places keep the rows of two panels side by side
      charts.replaceChildren(
        loadNow(model, layers, place, highlight),
        coSelection(model, layers, place, highlight),
        routerNow(model, layers, place),
        ...(state.deep ? [make("div"), make("div")] : []));
      return;
    }
    charts.replaceChildren(
      loadNow(model, layers, place, highlight),
      coSelection(model, layers, place, highlight),
      loadDepth(model, layers, place, highlight, choose),
      entropyDepth(model, byPhase, state.phase, place, choose),
      interDepth(model, byPhase, state.phase, place, choose));
  };
  return { model, root, setQuestion, update };
}
