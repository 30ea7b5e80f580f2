// State, controls and keys. The address keeps the state, so that a view can be sent on: #q=2&l=5&phase=decode&of=all

const byId = (id) => document.getElementById(id);
const models = TREE.models;
const deepest = models.reduce((best, model) => (model.layers.length > best.layers.length ? model : best));
const relative = (model, place) => model.layers[place] / Math.max(1, model.numLayers - 1);

const state = {
  question: 0, place: mostVaried(deepest), deep: deepest.layers.length > 1, phase: "prefill", all: false, tint: true, label: null,
  expertOf: (model) => {
    const expert = model.experts.findIndex((one) => one.label === state.label);
    return expert < 0 ? null : expert;
  },
  pick: (label) => {
    state.label = state.label === label ? null : label;
    draw();
  },
};

// The layer of a model that stands nearest to the chosen depth.
function placeIn(model) {
  const wanted = relative(deepest, state.place);
  let best = 0;
  model.layers.forEach((_, place) => {
    if (Math.abs(relative(model, place) - wanted) < Math.abs(relative(model, best) - wanted)) best = place;
  });
  return best;
}

function chooseIn(model) {
  return (place) => {
    const wanted = relative(model, place);
    const far = deepest.layers.map((_, other) => Math.abs(relative(deepest, other) - wanted));
    setPlace(far.indexOf(Math.min(...far)));
  };
}

const panels = models.map((model) => makePanel(model, state, chooseIn(model)));
byId("panels").className = panels.length > 1 ? "two" : "one";
byId("panels").append(...panels.map((panel) => panel.root));

function setPlace(place) {
  state.place = Math.min(deepest.layers.length - 1, Math.max(0, place));
  draw();
}

function setQuestion(number) {
  state.question = Math.min(models[0].questions.length - 1, Math.max(0, number));
  const { question, pictures } = models[0].questions[state.question];
  byId("asked").textContent = question;
  byId("thumbs").replaceChildren(...pictures.filter((picture) => picture.src).map((picture) =>
    make("img", { src: `data:image/png;base64,${picture.src}`, alt: "The picture as the model saw it", title: "as the model saw it" })));
  panels.forEach((panel) => panel.setQuestion(state.question));
  draw();
}

function set(changes) {
  Object.assign(state, changes);
  draw();
}

function draw() {
  hideTip();
  panels.forEach((panel) => panel.update(placeIn(panel.model)));
  byId("layer").value = state.place;
  byId("layer").setAttribute("aria-valuetext", `layer ${deepest.layers[state.place]}`);
  byId("depth").textContent = panels.map((panel) => panel.model.layers[placeIn(panel.model)]).join(" | ");
  byId("question").value = state.question;
  byId("previous").disabled = state.question === 0;
  byId("next").disabled = state.question === models[0].questions.length - 1;
  for (const phase of PHASES) byId(phase).setAttribute("aria-pressed", String(state.phase === phase));
  byId("one").setAttribute("aria-pressed", String(!state.all));
  byId("all").setAttribute("aria-pressed", String(state.all));
  byId("tint").checked = state.tint;
  const said = { q: state.question, l: state.place, phase: state.phase, of: state.all ? "all" : "one" };
  if (!state.tint) said.tint = "off";
  if (state.label !== null) said.expert = state.label;
  history.replaceState(null, "", `#${new URLSearchParams(said)}`);
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const number = (name, otherwise, most) => {
    const value = Number.parseInt(said.get(name) ?? "", 10);
    return value >= 0 && value <= most ? value : otherwise;
  };
  state.place = number("l", state.place, deepest.layers.length - 1);
  if (PHASES.includes(said.get("phase"))) state.phase = said.get("phase");
  state.all = said.get("of") === "all" && models.some((model) => model.numQuestions > 1);
  state.tint = said.get("tint") !== "off";
  state.label = said.get("expert");
  return number("q", 0, models[0].questions.length - 1);
}

models[0].questions.forEach(({ id, question }, number) => {
  const text = `${number + 1}  ${question.length > 90 ? `${question.slice(0, 89)}…` : question}`;
  byId("question").append(make("option", { value: number, title: id }, text));
});
// A control that has nothing to choose is not there.
byId("question").hidden = byId("previous").hidden = byId("next").hidden = byId("question-keys").hidden = models[0].questions.length === 1;
byId("layer").max = deepest.layers.length - 1;
byId("layers").hidden = byId("layer-keys").hidden = deepest.layers.length === 1;
byId("phases").hidden = byId("phase-keys").hidden = !models.some((model) => model.totals.decode || model.questions.some(({ phases }) => phases.decode));
byId("all").parentElement.hidden = byId("all-keys").hidden = models.every((model) => model.numQuestions <= 1);
byId("note").textContent = TREE.note;
for (const { name, settings } of [...models].reverse()) {
  const said = Object.entries(settings).map(([key, value]) => `${key}: ${value}`).join(" · ");
  byId("note").after(make("p", {}, `${name}: ${said}`));
}

byId("layer").addEventListener("input", (event) => setPlace(Number(event.target.value)));
byId("question").addEventListener("change", (event) => setQuestion(Number(event.target.value)));
byId("previous").addEventListener("click", () => setQuestion(state.question - 1));
byId("next").addEventListener("click", () => setQuestion(state.question + 1));
for (const phase of PHASES) byId(phase).addEventListener("click", () => set({ phase }));
byId("one").addEventListener("click", () => set({ all: false }));
byId("all").addEventListener("click", () => set({ all: true }));
byId("tint").addEventListener("change", (event) => set({ tint: event.target.checked }));

const KEYS = {
  ArrowLeft: () => setPlace(state.place - 1),
  ArrowRight: () => setPlace(state.place + 1),
  n: () => setQuestion(state.question + 1),
  p: () => setQuestion(state.question - 1),
  d: () => byId("phases").hidden || set({ phase: state.phase === "prefill" ? "decode" : "prefill" }),
  a: () => byId("all").parentElement.hidden || set({ all: !state.all }),
  t: () => set({ tint: !state.tint }),
  Escape: () => set({ label: null }),
};
document.addEventListener("keydown", (event) => {
  const own = event.target.closest?.("select, input[type=range], [data-arrows=own]");
  if (event.ctrlKey || event.metaKey || event.altKey || (own && event.key.startsWith("Arrow")) || event.target.tagName === "SELECT") return;
  KEYS[event.key]?.();
});
addEventListener("hashchange", () => setQuestion(readAddress()));
addEventListener("scroll", hideTip, { passive: true });

setQuestion(readAddress());
document.documentElement.dataset.ready = "yes";
