// The reasoning of each position: entropies, threshold, steps, and the choices after each step.

import { byId, element, itemName, redraw, shape } from "./dom.js";
import { digitsApart, nats, placement, statesOf, thought } from "./measures.js";
import { idText } from "./requests.js";

const [WIDTH, HEIGHT, TOP, BASE, LEFT] = [240, 76, 14, 58, 6];
const DOT = 4;

// Reasons for positions without the states of single steps.
const NO_STATES = "The service gave no states of single steps.";
export const PENDING = "The states of single steps follow …";
export const OTHER_SLATE =
  "The states of single steps are not shown: the service ranks the list once more for them, and " +
  "gave another slate or took other steps. It may explore, grant another budget under load, or " +
  "know an event that arrived in between.";

/** Draws the positions of a response; those that were open stay open. */
export class ThinkingView {
  #titles;
  #open = new Set();
  #missing = NO_STATES;

  constructor(titles) {
    this.#titles = titles;
  }

  /** Show the positions of a response; `missing`: the reason if it has no states of its steps. */
  show(response, missing = NO_STATES) {
    const { slate, reasoning } = response;
    this.#missing = missing;
    const highest = Math.max(
      reasoning.entropy_threshold,
      0.1,
      ...slate.flatMap((entry) => statesOf(entry).map((state) => state.entropy)),
    );
    redraw(
      byId("positions"),
      slate.map((entry) => this.#position(entry, reasoning, highest)),
    );
    const words = totals(slate, reasoning);
    byId("thinking-summary").textContent = missing === OTHER_SLATE ? `${words} ${missing}` : words;
  }

  /** Return the button that opens the position of an entry. */
  opener(entry) {
    return element(
      "button",
      {
        type: "button",
        "aria-label": `Why ${this.#titles.name(entry.id)} is at ${entry.position + 1}`,
        "data-focus": `Why ${idText(entry.id)}`,
        onclick: () => this.#reveal(entry.position),
      },
      "Why?",
    );
  }

  #reveal(position) {
    const button = byId("positions").children[position].querySelector("button.open");
    if (button.getAttribute("aria-expanded") !== "true") button.click();
    button.scrollIntoView({ block: "start" });
    button.focus({ preventScroll: true });
  }

  #position(entry, reasoning, highest) {
    const name = this.#titles.name(entry.id);
    const sentence = thought(entry, reasoning, (id) => this.#titles.name(id));
    const details = element("div", { id: `choices-${entry.position}`, hidden: true });
    const box = element("li", {});
    const button = element(
      "button",
      {
        class: "open",
        type: "button",
        "aria-controls": details.id,
        "aria-expanded": "false",
        "data-focus": `open ${entry.position}`,
        onclick: () => toggle(button.getAttribute("aria-expanded") !== "true"),
      },
      element("span", { class: "place" }, `${entry.position + 1}. `),
      itemName(name),
    );
    const figure = drawing(entry, reasoning, highest);
    figure.addEventListener("click", () => button.click());
    const toggle = (open) => {
      button.setAttribute("aria-expanded", String(open));
      details.hidden = !open;
      if (open) this.#open.add(entry.position);
      else this.#open.delete(entry.position);
      if (open && !details.hasChildNodes()) details.append(...this.#choices(entry));
    };
    box.append(element("div", {}, button, element("p", { class: "hint" }, sentence)), figure, details);
    if (this.#open.has(entry.position)) toggle(true);
    return box;
  }

  #choices(entry) {
    const words = placement(entry, (id) => this.#titles.name(id));
    return [element("p", {}, words), ...this.#tables(entry)];
  }

  #tables(entry) {
    const states = statesOf(entry);
    if (states.some((state) => state.choices.length)) {
      const hint =
        "Rows are in the order of the last state, and the candidate that led in a state is bold. " +
        "A dash: not among the most probable of that state, which alone are listed. Read: the " +
        "weight of a candidate in the mix of candidates that the next step takes in.";
      return [this.#table(states), element("p", { class: "hint" }, hint)];
    }
    const { explanation, logprob, id } = entry;
    if (logprob === null) return [];
    const probability = explanation?.probability ?? Math.exp(logprob);
    const others = (explanation?.alternatives ?? []).map((other) => ({
      ...other,
      logprob: Math.log(other.probability),
    }));
    const choices = [{ id, probability, logprob }, ...others];
    return [
      this.#table([{ entropy: entry.entropy, choice: id, choices, name: "At the choice" }]),
      element("p", { class: "hint" }, this.#missing),
    ];
  }

  // A row for each candidate that was close in any state, a column for each state.
  #table(states) {
    const ids = new Map(
      states.flatMap(({ choices }) => choices.map((choice) => [idText(choice.id), choice.id])),
    );
    const heading = ({ name, entropy }, step) =>
      element(
        "th",
        { scope: "col" },
        name ?? (step === 0 ? "Before reasoning" : `After step ${step}`),
        element("div", { class: "meta" }, nats(entropy)),
      );
    const head = element(
      "tr",
      {},
      element("th", { scope: "col" }, "Candidate"),
      ...states.map(heading),
    );
    const sorted = byLastState([...ids], states);
    const digits = states.map(({ choices }) =>
      digitsApart(
        choices.map((choice) => 100 * choice.probability),
        1,
      ),
    );
    const rows = sorted.map(([text, id]) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, itemName(this.#titles.name(id))),
        ...states.map((state, step) => figures(state, text, digits[step])),
      ),
    );
    const name = "Most probable candidates of each state";
    const hint = "Move the table sideways to see later steps.";
    return element(
      "div",
      { class: "wide", role: "region", "aria-label": name, tabindex: 0 },
      element("p", { class: "hint narrow" }, hint),
      element(
        "table",
        { class: "states" },
        element("caption", {}, name),
        element("thead", {}, head),
        element("tbody", {}, ...rows),
      ),
    );
  }
}

// Pairs of text and id, the most probable in the last state first; then by the state before it.
function byLastState(ids, states) {
  const shares = states
    .map(({ choices }) => new Map(choices.map((each) => [idText(each.id), each.probability])))
    .reverse();
  const difference = (one, other) => {
    const share = shares.find((map) => map.get(one) !== map.get(other));
    return share === undefined ? 0 : (share.get(other) ?? -1) - (share.get(one) ?? -1);
  };
  return ids.toSorted(([one], [other]) => difference(one, other));
}

// The cell of a candidate in a state, by the text of its id.
function figures(state, text, digits) {
  const choice = state.choices.find((each) => idText(each.id) === text);
  if (choice === undefined) return element("td", {}, "–");
  const { probability, logprob, weight } = choice;
  const read = weight === null || weight === undefined ? "" : ` · read ${percent(weight)}`;
  const leads = state.choice !== undefined && idText(state.choice) === text;
  return element(
    "td",
    {},
    element(leads ? "strong" : "span", {}, percent(probability, digits)),
    element("div", { class: "meta" }, `log ${logprob.toFixed(3)}${read}`),
  );
}

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

function totals(slate, reasoning) {
  const stepped = slate.filter((entry) => entry.reasoning_steps > 0);
  if (stepped.length === 0) return "No position took a reasoning step.";
  const choicesOf = (entry) => statesOf(entry).map((state) => state.choice);
  const explained = stepped.filter((entry) => choicesOf(entry)[0] !== undefined);
  const changed = explained.filter((entry) => {
    const choices = choicesOf(entry);
    return idText(choices[0]) !== idText(choices.at(-1));
  });
  const steps = `${reasoning.steps_used} in all`;
  const words = `${stepped.length} of ${slate.length} positions took steps, ${steps}`;
  if (explained.length < stepped.length) return `${words}.`;
  const where = changed.map((entry) => entry.position + 1).join(", ");
  const effect = where
    ? `they changed the choice at ${where}`
    : "none changed the choice of its position";
  const hint = "a comparison with a budget of 0 shows the whole effect";
  return `${words}; ${effect}. Later positions go on from them: ${hint}.`;
}

/** Return the drawing of one position. */
function drawing(entry, reasoning, highest) {
  const states = statesOf(entry);
  const budget = reasoning.budget_per_position;
  const slots = Math.max(budget + 1, states.length);
  const slot = (WIDTH - 2 * LEFT) / slots;
  const height = (entropy) => ((BASE - TOP) * entropy) / highest;
  const figure = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": described(states, reasoning),
  });
  states.forEach(({ entropy }, step) => {
    const x = LEFT + (states.length === 2 && step === 1 ? entry.reasoning_steps : step) * slot;
    figure.append(
      shape("rect", {
        x: x + slot * 0.15,
        y: BASE - height(entropy),
        width: slot * 0.7,
        height: height(entropy),
        rx: 2,
        class: step && step === states.length - 1 ? "entropy last" : "entropy",
      }),
      shape(
        "text",
        {
          x: x + slot / 2,
          y: BASE - height(Math.max(entropy, reasoning.entropy_threshold)) - 3,
          "text-anchor": "middle",
        },
        entropy.toFixed(3),
      ),
    );
  });
  figure.append(shape("line", { x1: LEFT, x2: WIDTH - LEFT, y1: BASE, y2: BASE, class: "axis" }));
  if (reasoning.entropy_threshold >= 0) {
    const y = BASE - height(reasoning.entropy_threshold);
    figure.append(shape("line", { x1: LEFT, x2: WIDTH - LEFT, y1: y, y2: y, class: "threshold" }));
  }
  for (let step = 1; step <= budget; step++) {
    const taken = step <= entry.reasoning_steps;
    figure.append(
      shape("circle", {
        cx: LEFT + (step + 0.5) * slot,
        cy: BASE + 12,
        r: DOT,
        class: taken ? "dot" : "dot left",
      }),
    );
  }
  return figure;
}

function described(states, reasoning) {
  if (states.length === 0) return "no entropies";
  const list = states.map((state) => state.entropy.toFixed(2)).join(", ");
  return `Entropies in nats: ${list}; threshold ${reasoning.entropy_threshold.toFixed(2)}`;
}
