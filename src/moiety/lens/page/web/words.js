// The words of prompt and answer, each in the colour of the expert that read it.

const LEAST = 12, MOST = 48; // per cent of the colour behind a word: text stays readable, light and dark

function wordsView(model, question, state) {
  const places = pictureOf(question);
  const view = make("div", { class: "words" });
  const spans = [];
  const block = (head, phase, words, tokenOf) => {
    const line = make("p", { class: `text ${phase}`, "aria-label": `${head}; the arrow keys go from word to word` });
    let patches = 0;
    const flush = () => {
      if (patches) line.append(make("span", { class: "patches" }, `${patches} patches`));
      patches = 0;
    };
    words.forEach((word, number) => {
      if (phase === "prefill" && places[number] >= 0) {
        patches += 1;
        return;
      }
      flush();
      const span = make("span", { class: "word", "data-cell": number }, word.replaceAll("\n", "↵") || "␣");
      spans.push({ span, phase, token: tokenOf(number), word });
      line.append(span);
      if (word.includes("\n")) line.append(make("br"));
    });
    flush();
    view.append(make("h3", {}, head), line);
    const own = spans.filter((one) => one.phase === phase);
    withCursor(line, () => own.map((one) => one.span), () => 1, (cell, number) => {
      const { token, word } = own[number];
      const head = JSON.stringify(word);
      showTip(tokenTip(model, head, choices(question, phase, layer, token)), cell.getBoundingClientRect());
    });
  };
  let layer = 0;
  block("Prompt (prefill)", "prefill", question.words, (number) => number);
  if (question.phases.decode) block("Answer (decode)", "decode", question.generated, (number) => number);
  else view.append(make("p", { class: "soft" }, "The answer has a single token, which the model never reads again, so there is no decode."));
  const update = (now) => {
    layer = now;
    for (const { span, phase, token } of spans) {
      const { expert, strength } = look(model, choices(question, phase, layer, token), state.expertOf(model));
      const { colour } = model.experts[expert];
      const shown = state.tint && strength > 0;
      const share = Math.round(LEAST + (MOST - LEAST) * strength);
      span.style.background = shown ? `color-mix(in srgb, ${colour} ${share}%, var(--card))` : "";
      span.style.borderBottomColor = shown ? colour : "transparent";
      span.dataset.expert = strength > 0 ? expert : "";
    }
    view.querySelectorAll(".text").forEach((text) => text.classList.toggle("faded", !text.classList.contains(state.phase)));
  };
  return { view, update };
}
