// Elements, the tip, and how a token looks. Text always goes in as text, never as markup.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  return dress(element, attributes, children);
}

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  return dress(element, attributes, children);
}

function dress(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const percent = (value) => `${Math.round(100 * value)} %`;
const SAID = { prefill: "prefill", decode: "decode" };

// -- the tip: one box that says what is under the mouse or the cursor ------------------------------------------------
const tip = document.getElementById("tip");

function showTip(lines, box) {
  tip.replaceChildren(...lines.map((line) => (typeof line === "string" ? make("div", {}, line) : line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, box.left + box.width / 2 - width / 2), innerWidth - width - 4);
  const above = box.top - height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}

function hideTip() {
  tip.hidden = true;
}

function expertLine(model, { expert, weight }) {
  const swatch = make("i", { class: "swatch" });
  swatch.style.background = model.experts[expert].colour;
  return make("div", {}, swatch, `${model.experts[expert].label} · ${weight.toFixed(2)}`);
}

function tokenTip(model, head, found) {
  return [
    make("b", {}, head),
    ...found.chosen.map((one) => expertLine(model, one)),
    make("div", { class: "soft" }, `entropy of the router ${found.entropy.toFixed(2)}`),
  ];
}

// -- a token: the colour of one expert, and how strong ---------------------------------------------------------------
// Without a chosen expert that is the first choice, as strong as its weight stands above an even one; with one it is
// that expert, as strong as its weight, and nothing where the token did not choose it.
function look(model, found, highlight) {
  if (highlight === null) {
    const { expert, weight } = found.chosen[0];
    const even = 1 / found.topK;
    const above = found.topK === 1 ? 1 : Math.min(1, Math.max(0, (weight - even) / (1 - even)));
    return { expert, strength: 0.6 + 0.4 * above };
  }
  const own = found.chosen.find((one) => one.expert === highlight);
  return { expert: highlight, strength: own && own.weight > 0 ? 0.25 + 0.75 * own.weight : 0 };
}

// -- a set of elements with one cursor, moved by the arrow keys while the set has the focus --------------------------
// `cells` gives the elements, `columns` how many stand in a row; `enter` is called with (element, number).
function withCursor(root, cells, columns, enter) {
  let place = -1;
  const leave = () => {
    cells().forEach((cell) => cell.classList.remove("cursor"));
    hideTip();
  };
  const go = (to) => {
    const all = cells();
    if (!all.length) return;
    place = Math.min(all.length - 1, Math.max(0, to));
    leave();
    all[place].classList.add("cursor");
    enter(all[place], place);
  };
  root.tabIndex = 0;
  root.dataset.arrows = "own";
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (event.key === "Escape") leave();
    if (step === undefined) return;
    event.preventDefault();
    go(place < 0 ? 0 : place + step);
  });
  root.addEventListener("blur", leave);
  root.addEventListener("mouseleave", leave);
  root.addEventListener("mouseover", (event) => {
    const number = cells().indexOf(event.target.closest("[data-cell]"));
    if (number >= 0) go(number);
  });
}
