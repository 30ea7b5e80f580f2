// Charts of the numbers: the load now and over depth, who is chosen together, entropy and inter-modality share.

const LINES = { vision: "#D55E00", text: "#009E73" };
const OTHER = "#CC79A7";
const WRITTEN = 0.09; // narrower bars have no room for their number
const FEW = 8; // experts: larger tables have no room for numbers
const WIDE = 440, HIGH = 150, LEFT = 34, BOTTOM = 22, TOP = 10;

const lineColour = (name) => LINES[name] ?? OTHER;
const present = (model, layers) => model.groups.map((_, group) => group).filter((group) => layers.some((one) => one.tokens[group]));

function chart(head, explained, ...children) {
  return make("section", { class: "card chart" }, make("h2", {}, head), make("p", { class: "soft" }, explained), ...children);
}

// -- load of the layer: one bar for each modality group --------------------------------------------------------------
function loadNow(model, layers, place, highlight) {
  const now = layers[place];
  const bars = present(model, layers).map((group) => {
    const parts = now.load[group].map((share, expert) => {
      if (!share) return "";
      const { colour, ink, label } = model.experts[expert];
      const part = make("span", { class: "part", "data-expert": expert, "data-share": share.toFixed(4) });
      part.style.cssText = `flex-grow: ${share}; background: ${colour}; color: ${ink}`;
      part.classList.toggle("dim", highlight !== null && highlight !== expert);
      if (share >= WRITTEN) part.textContent = Math.round(100 * share);
      tipOn(part, () => [`${label}: ${percent(share)} of the choices of ${model.groups[group]} tokens`]);
      return part;
    });
    return make("div", { class: "load" },
      make("span", { class: "name" }, model.groups[group], make("small", {}, ` ${now.tokens[group].toLocaleString("en")} tokens`)),
      make("div", { class: "bar", role: "img", "aria-label": spoken(model, group, now) }, ...parts));
  });
  return chart(`Load in layer ${model.layers[place]}`, "Share of all choices that each expert got, in per cent, by modality.", ...bars);
}

function spoken(model, group, now) {
  const shares = now.load[group].map((share, expert) => (share ? `${model.experts[expert].label} ${percent(share)}` : ""));
  return `${model.groups[group]}: ${shares.filter((text) => text).join(", ")}`;
}

function tipOn(element, lines) {
  element.addEventListener("mouseenter", () => showTip(lines(), element.getBoundingClientRect()));
  element.addEventListener("mouseleave", hideTip);
}

// -- load over depth: a column for each layer, the chosen one framed -------------------------------------------------
function loadDepth(model, layers, place, highlight, choose) {
  const groups = present(model, layers);
  const wide = Math.min(26, 400 / layers.length), high = 70;
  const rows = groups.map((group) => {
    const columns = layers.map((one, layer) => {
      let top = 0;
      const parts = one.load[group].map((share, expert) => {
        const part = svg("rect", {
          x: layer * wide + 1, width: Math.max(1, wide - 2), y: top * high, height: share * high,
          fill: model.experts[expert].colour, class: highlight !== null && highlight !== expert ? "dim" : "",
        });
        top += share;
        return part;
      });
      const column = svg("g", { class: "column" }, ...parts);
      column.addEventListener("click", () => choose(layer));
      tipOn(column, () => [make("b", {}, `layer ${model.layers[layer]}, ${model.groups[group]}`),
        ...one.load[group].flatMap((share, expert) => (share ? [`${model.experts[expert].label}: ${percent(share)}`] : []))]);
      return column;
    });
    const frame = svg("rect", { class: "frame", x: place * wide, y: -1, width: wide, height: high + 2 });
    const drawn = svg("svg", { viewBox: `-2 -3 ${wide * layers.length + 4} ${high + 6}`, class: "columns", "aria-hidden": "true" }, ...columns, frame);
    drawn.style.width = `${wide * layers.length + 4}px`;
    return make("div", { class: "load" }, make("span", { class: "name" }, model.groups[group]), drawn);
  });
  return chart("Load over depth", "One column for each sparse layer, from left to right; the frame marks the chosen one. Click a column to choose its layer.", ...rows);
}

// -- who is chosen together ------------------------------------------------------------------------------------------
function coSelection(model, layers, place, highlight) {
  const now = layers[place];
  const tables = present(model, layers).map((group) => {
    const seen = model.visible[group];
    const size = seen.length <= FEW ? 34 : Math.max(5, 272 / seen.length);
    const most = Math.max(...seen.map((expert) => now.together[group][expert][expert]), 1e-9);
    const cells = seen.flatMap((down, row) => seen.map((across, column) => {
      const share = now.together[group][down][across];
      const shade = share / most;
      const dim = highlight !== null && highlight !== down && highlight !== across;
      const cell = svg("g", { class: dim ? "dim" : "" },
        svg("rect", { x: column * size, y: row * size, width: size - 1, height: size - 1, class: down === across ? "own" : "pair", "fill-opacity": (0.06 + 0.94 * shade).toFixed(3) }));
      if (seen.length <= FEW) {
        cell.append(svg("text", { x: column * size + size / 2, y: row * size + size / 2 + 4, class: shade > 0.55 ? "inverse" : "" }, Math.round(100 * share)));
      }
      tipOn(cell, () => [down === across
        ? `${model.experts[down].label}: chosen by ${percent(share)} of the ${model.groups[group]} tokens`
        : `${model.experts[down].label} with ${model.experts[across].label}: ${percent(share)} of the ${model.groups[group]} tokens`]);
      return cell;
    }));
    const swatches = seen.flatMap((expert, row) => [
      svg("rect", { x: -9, y: row * size, width: 6, height: size - 1, fill: model.experts[expert].colour }),
      svg("rect", { x: row * size, y: -9, width: size - 1, height: 6, fill: model.experts[expert].colour })]);
    const side = seen.length * size;
    const drawn = svg("svg", { viewBox: `-10 -10 ${side + 10} ${side + 10}`, class: "matrix", role: "img", "aria-label": `Experts chosen together by ${model.groups[group]} tokens` }, ...swatches, ...cells);
    drawn.style.width = `${side + 10}px`;
    return make("figure", {}, drawn, make("figcaption", {}, model.groups[group]));
  });
  return chart("Chosen together", `Per cent of tokens that chose both experts in layer ${model.layers[place]}; on the diagonal, those that chose the expert.`,
    make("div", { class: "matrices" }, ...tables));
}

// -- the router of the only layer, in numbers ------------------------------------------------------------------------
function routerNow(model, layers, place) {
  const rows = present(model, layers).map((group) => make("tr", {},
    make("th", {}, model.groups[group]),
    make("td", {}, layers[place].entropy[group].toFixed(2)),
    model.inter.length ? make("td", {}, percent(layers[place].inter[group])) : "",
    model.inter.length ? make("td", { class: "soft" }, percent(evenShare(model, group))) : ""));
  const heads = ["", "entropy", ...(model.inter.length ? ["inter-modality share", "if even"] : [])];
  const table = make("table", { class: "facts" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))), make("tbody", {}, ...rows));
  return chart(`Router of layer ${model.layers[place]}`, "Entropy: 1 means undecided between all allowed experts, 0 means sure. Inter-modality experts are open to every modality.", table);
}

const evenShare = (model, group) => model.visible[group].filter((expert) => model.inter.includes(expert)).length / model.visible[group].length;

// -- lines over depth ------------------------------------------------------------------------------------------------
function depthLines(model, byPhase, phase, place, choose, name, head, explained, even) {
  const x = (layer) => LEFT + (model.layers[layer] / Math.max(1, model.numLayers - 1)) * (WIDE - LEFT - 12);
  const y = (value) => TOP + (1 - value) * (HIGH - TOP - BOTTOM);
  const parts = [0, 0.5, 1].flatMap((value) => [
    svg("line", { x1: LEFT, x2: WIDE - 8, y1: y(value), y2: y(value), class: "rule" }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, class: "end" }, String(value))]);
  const ticks = Math.ceil(model.layers.length / 12);
  model.layers.forEach((layer, number) => {
    if (number % ticks === 0) parts.push(svg("text", { x: x(number), y: HIGH - 6 }, String(layer)));
  });
  parts.push(svg("line", { x1: x(place), x2: x(place), y1: TOP - 4, y2: HIGH - BOTTOM, class: "now", "data-layer": model.layers[place] }));
  for (const one of PHASES) {
    const layers = byPhase[one];
    if (!layers) continue;
    for (const group of present(model, layers)) {
      const colour = lineColour(model.groups[group]);
      const points = layers.map((numbers, layer) => [x(layer), y(numbers[name][group])]);
      const line = svg("g", { class: one === phase ? "" : "faded" },
        svg("polyline", { points: points.map((point) => point.join(",")).join(" "), stroke: colour, "stroke-dasharray": one === "decode" ? "5 4" : null, class: "line" }),
        ...points.map(([cx, cy], layer) => {
          const dot = svg("circle", { cx, cy, r: layer === place ? 5 : 3.4, stroke: colour, fill: one === "decode" ? "var(--card)" : colour });
          dot.addEventListener("click", () => choose(layer));
          tipOn(dot, () => [`layer ${model.layers[layer]}, ${model.groups[group]}, ${SAID[one]}: ${layers[layer][name][group].toFixed(3)}`]);
          return dot;
        }));
      parts.push(line);
    }
  }
  for (const [group, value] of even) {
    parts.push(svg("line", { x1: LEFT, x2: WIDE - 8, y1: y(value), y2: y(value), class: "even", stroke: lineColour(model.groups[group]) }));
  }
  const drawn = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "lines", role: "img", "aria-label": head }, ...parts);
  return chart(head, explained, drawn, lineKey(model, byPhase));
}

function lineKey(model, byPhase) {
  const entries = PHASES.flatMap((phase) => (byPhase[phase] ? present(model, byPhase[phase]).map((group) => [phase, group]) : []));
  return make("p", { class: "key" }, ...entries.map(([phase, group]) => {
    const dash = make("i", { class: `dash ${phase}` });
    dash.style.borderColor = lineColour(model.groups[group]);
    return make("span", {}, dash, `${model.groups[group]}, ${SAID[phase]}`);
  }));
}

function entropyDepth(model, byPhase, phase, place, choose) {
  return depthLines(model, byPhase, phase, place, choose, "entropy", "Entropy of the router over depth", "1: undecided between all allowed experts. 0: sure.", []);
}

function interDepth(model, byPhase, phase, place, choose) {
  if (!model.inter.length) return chart("Inter-modality share over depth", "This scheme has no expert that is open to several modalities.");
  const groups = [...new Set(PHASES.flatMap((one) => (byPhase[one] ? present(model, byPhase[one]) : [])))];
  const even = groups.map((group) => [group, evenShare(model, group)]);
  return depthLines(model, byPhase, phase, place, choose, "inter", "Inter-modality share over depth", "Share of choices that went to experts open to every modality. Dotted: the share under an even load.", even);
}
