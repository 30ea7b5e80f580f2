// What the page holds, and the numbers of one question: counted here from its decisions.

const TREE = JSON.parse(document.getElementById("data").textContent);
const PHASES = ["prefill", "decode"];

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

// The decisions of one phase of a question: index and weights by (layer, token, choice), unpacked once.
function unpack(part) {
  if (!part.unpacked) {
    const index = bytes(part.index);
    part.unpacked = {
      tokens: part.tokens,
      topK: part.topK,
      index: new Uint16Array(index.buffer, 0, index.length / 2),
      weights: bytes(part.weights),
      entropy: bytes(part.entropy),
      group: bytes(part.group),
    };
  }
  return part.unpacked;
}

function pictureOf(question) {
  question.places ??= new Int8Array(bytes(question.pictureOf).buffer);
  return question.places;
}

// What one token chose in one layer: [{expert, weight}], the heaviest first, and how undecided the router was.
function choices(question, phase, layer, token) {
  const part = unpack(question.phases[phase]);
  const start = (layer * part.tokens + token) * part.topK;
  const chosen = [];
  for (let choice = 0; choice < part.topK; choice++) {
    chosen.push({ expert: part.index[start + choice], weight: part.weights[start + choice] / 255 });
  }
  return { chosen, entropy: part.entropy[layer * part.tokens + token] / 255, topK: part.topK };
}

function zeros(...shape) {
  if (shape.length === 1) return new Array(shape[0]).fill(0);
  return Array.from({ length: shape[0] }, () => zeros(...shape.slice(1)));
}

// Numbers of one question in one phase and layer, under the names of the totals.
function count(model, question, phase, layer) {
  const part = unpack(question.phases[phase]);
  const groups = model.groups.length, experts = model.experts.length;
  const found = {
    tokens: zeros(groups), load: zeros(groups, experts), together: zeros(groups, experts, experts),
    entropy: zeros(groups), inter: zeros(groups),
  };
  for (let token = 0; token < part.tokens; token++) {
    const group = part.group[token];
    const { chosen, entropy } = choices(question, phase, layer, token);
    found.tokens[group] += 1;
    found.entropy[group] += entropy;
    for (const one of chosen) {
      found.load[group][one.expert] += 1;
      for (const other of chosen) found.together[group][one.expert][other.expert] += 1;
    }
  }
  for (let group = 0; group < groups; group++) {
    const tokens = Math.max(1, found.tokens[group]);
    const slots = Math.max(1, found.load[group].reduce((sum, value) => sum + value, 0));
    found.entropy[group] /= tokens;
    found.load[group] = found.load[group].map((value) => value / slots);
    found.together[group] = found.together[group].map((row) => row.map((value) => value / tokens));
    found.inter[group] = model.inter.reduce((sum, expert) => sum + found.load[group][expert], 0);
  }
  return found;
}

// Numbers of all layers in one phase: of one question, or of all questions. Null where the phase has no token.
function numbersOf(model, question, phase, all) {
  if (!all) {
    if (!question.phases[phase]) return null;
    question.counted ??= {};
    question.counted[phase] ??= model.layers.map((_, layer) => count(model, question, phase, layer));
    return question.counted[phase];
  }
  const total = model.totals[phase];
  if (!total) return null;
  return model.layers.map((_, layer) =>
    Object.fromEntries(Object.entries(total).map(([name, values]) => [name, values[layer]])));
}

// Who read most patches and most words first, in a sentence; the words are those of the phase that is shown.
function readFirst(model, question, phase, layer) {
  if (!question.phases[phase]) return "";
  const places = pictureOf(question);
  const counted = { patches: new Map(), words: new Map() };
  for (let token = 0; token < question.phases[phase].tokens; token++) {
    const kind = phase === "prefill" && places[token] >= 0 ? "patches" : "words";
    const { expert } = choices(question, phase, layer, token).chosen[0];
    counted[kind].set(expert, (counted[kind].get(expert) ?? 0) + 1);
  }
  const parts = Object.entries(counted).flatMap(([kind, of]) => {
    const all = [...of.values()].reduce((sum, value) => sum + value, 0);
    if (!all) return [];
    const [expert, most] = [...of].reduce((best, one) => (one[1] > best[1] ? one : best));
    return [`${most} of ${all} ${kind} were sent to expert ${model.experts[expert].label} first`];
  });
  return `In layer ${model.layers[layer]}, ${parts.join("; ")}.`;
}

// The layer whose first choices over the picture differ most: the one that is worth seeing first.
function mostVaried(model) {
  const question = model.questions[0];
  const places = pictureOf(question);
  let best = 0, most = -1;
  model.layers.forEach((_, layer) => {
    const first = zeros(model.experts.length);
    let patches = 0;
    places.forEach((picture, token) => {
      if (picture < 0) return;
      first[choices(question, "prefill", layer, token).chosen[0].expert] += 1;
      patches += 1;
    });
    const spread = -first.filter((n) => n).reduce((sum, n) => sum + (n / patches) * Math.log(n / patches), 0);
    if (spread >= most) [best, most] = [layer, spread];
  });
  return best;
}
