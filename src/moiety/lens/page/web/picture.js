// Pictures of a question with their patches tinted; patches without a grid stand in reading order, as a strip.

const STRIP = 32;
const NUMBERED = 10; // patches a side: in finer grids a number would hide its patch
const SMALL = 160; // pixels: smaller pictures are shown with hard edges, as the model saw them

function pictureView(model, question, state) {
  const places = pictureOf(question);
  const view = make("div", { class: "pictures" });
  const updates = question.pictures.map((picture, number) => {
    const tokens = [];
    places.forEach((of, token) => of === number && tokens.push(token));
    const { figure, update } = onePicture(model, question, picture, tokens, state);
    view.append(figure);
    return update;
  });
  if (question.note) view.append(make("p", { class: "soft" }, question.note));
  if (!question.pictures.length) view.append(make("p", { class: "soft" }, "A question without a picture."));
  return { view, update: (layer) => updates.forEach((update) => update(layer)) };
}

function onePicture(model, question, picture, tokens, state) {
  const [rows, columns] = picture.grid ?? [Math.ceil(tokens.length / STRIP), Math.min(STRIP, tokens.length)];
  const stage = make("div", { class: "stage" });
  const figure = make("figure", { class: picture.grid ? "grid" : "strip" }, stage);
  if (picture.src) {
    const image = make("img", { src: `data:image/png;base64,${picture.src}`, alt: "The picture of the question" });
    image.addEventListener("load", () => image.classList.toggle("hard", image.naturalWidth < SMALL));
    stage.append(image);
  }
  const cells = tokens.map((token, number) => svg("rect", {
    x: number % columns, y: Math.floor(number / columns), width: 1, height: 1, "data-cell": number,
  }));
  const badges = picture.grid && Math.max(rows, columns) <= NUMBERED ? tokens.map((_, number) => badge(number, columns)) : [];
  const overlay = svg("svg", {
    viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${tokens.length} patches; the arrow keys go from one to the next`,
  }, ...cells);
  const numbers = svg("svg", { viewBox: `0 0 ${columns} ${rows}`, class: "numbers", "aria-hidden": "true" }, ...badges);
  if (!picture.grid) overlay.style.aspectRatio = `${columns} / ${rows}`;
  stage.append(overlay, numbers);
  const caption = make("figcaption", { class: "soft" });
  figure.append(caption);
  let layer = 0;
  withCursor(overlay, () => cells, () => columns, (cell, number) => {
    const where = picture.grid
      ? `patch: row ${Math.floor(number / columns) + 1}, column ${(number % columns) + 1}`
      : `image token ${number + 1}`;
    showTip(tokenTip(model, where, choices(question, "prefill", layer, tokens[number])), cell.getBoundingClientRect());
  });
  const update = (now) => {
    layer = now;
    const tinted = state.phase === "prefill" && (state.tint || !picture.grid);
    figure.classList.toggle("tinted", tinted);
    caption.textContent = state.phase === "decode" ? "Patches are read in the prefill. In the decode, only words are read." : "";
    cells.forEach((cell, number) => {
      const { expert, strength } = look(model, choices(question, "prefill", layer, tokens[number]), state.expertOf(model));
      cell.setAttribute("fill", model.experts[expert].colour);
      cell.setAttribute("fill-opacity", (tinted ? strength : 0).toFixed(3));
      cell.dataset.expert = strength > 0 ? expert : "";
      if (badges[number]) name(badges[number], tinted && strength > 0 ? expert : null, model.experts[expert]);
    });
  };
  return { figure, update };
}

// The number of the expert in the corner of its patch, in its pure colour: two shades of one hue stay apart.
function badge(number, columns) {
  const [x, y] = [(number % columns) + 0.17, Math.floor(number / columns) + 0.17];
  return svg("g", {}, svg("circle", { cx: x, cy: y, r: 0.125 }), svg("text", { x, y: y + 0.062 }));
}

function name(mark, expert, { colour, ink }) {
  mark.style.display = expert === null ? "none" : "";
  mark.firstChild.setAttribute("fill", colour);
  mark.lastChild.setAttribute("fill", ink);
  mark.lastChild.textContent = expert;
}
