// Two settings or two models side by side, ranked for the same request.

import { byId, element, itemName } from "./dom.js";
import {
  cautions,
  comparison,
  countValues,
  fairRun,
  median,
  milliseconds,
  slateIds,
} from "./measures.js";
import { sameRequest, unexplored, withValue } from "./requests.js";
import { findChanged } from "./search.js";
import { rank } from "./service.js";

const RUNS = 5; // of each side, in turn, for their times and against a degraded one
const SHORT = 5; // first positions whose different values are counted
const SEED = 1; // of sampled slates, the same on both sides
const TIMES_HINT =
  "One run of each side goes before these and is left out. So few runs cannot tell small " +
  "differences in time, least of all on a busy machine.";

const FIELDS = [
  { name: "budget", label: "Budget", path: ["reasoning", "budget"], min: 0, step: 1 },
  {
    name: "threshold",
    label: "Entropy threshold",
    path: ["reasoning", "entropy_threshold"],
    step: "any",
  },
  {
    name: "temperature",
    label: "Temperature of the choice",
    path: ["temperatures", "recommend"],
    min: 0.01,
    step: "any",
  },
  {
    name: "diversity",
    label: "Weight of diversity",
    path: ["diversity", "weight"],
    min: 0,
    max: 10,
    step: 0.05,
  },
  {
    name: "slates",
    label: "Sampled slates",
    path: ["sampling", "slates"],
    min: 1,
    max: 64,
    step: 1,
  },
];

// Values of sides A and B by preset and field; the rest is as in the request.
const PRESETS = {
  reasoning: { budget: [0, ""] },
  diversity: { diversity: [0, 0.5] },
};

/**
 * Both sides and their result.
 *
 * `defaultAttribute` is that of a diversity without one, `showRequest` replaces the request of the page.
 */
export class Comparison {
  #info;
  #titles;
  #defaultAttribute;
  #requestOf;
  #showRequest;
  #onrefusal;
  #compared = null; // the request of the result that is shown, or of the search

  constructor(info, titles, defaultAttribute, requestOf, showRequest, onrefusal) {
    this.#info = info;
    this.#titles = titles;
    this.#defaultAttribute = defaultAttribute;
    this.#requestOf = requestOf;
    this.#showRequest = showRequest;
    this.#onrefusal = onrefusal;
    byId("sides").append(...["A", "B"].map((side) => this.#side(side)));
    this.#fill("reasoning");
    byId("compare-run").addEventListener("click", () => this.#run());
    for (const button of document.querySelectorAll("button.preset")) {
      const { preset } = button.dataset;
      button.disabled = preset === "diversity" && (!info.intent || defaultAttribute === undefined);
      button.addEventListener("click", () => {
        this.#fill(preset);
        this.#run();
      });
    }
    byId("find").addEventListener("click", () => this.#find());
  }

  #fill(preset) {
    for (const { name } of FIELDS) {
      ["A", "B"].forEach((side, place) => {
        byId(`compare-${side}-${name}`).value = PRESETS[preset][name]?.[place] ?? "";
      });
    }
  }

  #side(side) {
    const inputs = FIELDS.map(({ name, label, min, max, step }) => {
      const input = element("input", {
        id: `compare-${side}-${name}`,
        type: "number",
        min,
        max,
        step,
        placeholder: "as in the request",
      });
      input.disabled = name === "diversity" && !this.#info.intent;
      return element("label", {}, label, input);
    });
    const models = Object.entries(this.#info.models).map(([name, version]) =>
      element("option", { value: name }, `${name}, version ${version}`),
    );
    const model = element(
      "select",
      { id: `compare-${side}-model` },
      element("option", { value: "" }, "as in the request"),
      ...models,
    );
    return element(
      "fieldset",
      {},
      element("legend", {}, `Side ${side}`),
      ...inputs,
      element("label", {}, "Model", model),
    );
  }

  #request(side) {
    let request = this.#requestOf();
    for (const { name, path } of FIELDS) {
      const text = byId(`compare-${side}-${name}`).value;
      if (text === "") continue;
      if (name === "diversity") request = this.#diverse(request, Number(text));
      else request = withValue(request, path, Number(text));
      if (name === "slates") request = withValue(request, ["sampling", "seed"], SEED);
    }
    const model = byId(`compare-${side}-model`).value;
    return model ? { ...request, model } : request;
  }

  // The name of a side with the settings that it has of its own.
  #heading(side) {
    const by = [this.#requestOf().diversity].flat()[0]?.by ?? this.#defaultAttribute;
    const settings = [...FIELDS, { name: "model", label: "Model" }]
      .map(({ name, label }) => [name, label, byId(`compare-${side}-${name}`).value])
      .filter(([, , value]) => value !== "")
      .map(([name, label, value]) =>
        name === "diversity" ? `${label} ${value} over ${by}` : `${label} ${value}`,
      );
    return `${side}: ${settings.join(", ") || "as in the request"}`;
  }

  #diverse(request, weight) {
    const [first, ...rest] = Array.isArray(request.diversity)
      ? request.diversity
      : [request.diversity];
    const changed = { by: this.#defaultAttribute, ...first, weight };
    return { ...request, diversity: rest.length ? [changed, ...rest] : changed };
  }

  /** Say whether the result is of the request as it is now. */
  show() {
    const stale = this.#compared !== null && !sameRequest(this.#compared, this.#requestOf());
    byId("compare-stale").hidden = !stale;
  }

  #run(before = "") {
    return this.#attempt("Ranking both sides …", async () => {
      const request = this.#requestOf();
      const requests = ["A", "B"].map((side) => unexplored(this.#request(side), this.#info));
      const headings = ["A", "B"].map((side) => this.#heading(side));
      for (const each of requests) await rank(each); // a first use may open a graph
      const [first, second] = [[], []];
      for (let run = 0; run < RUNS; run++) {
        first.push(await rank(requests[0]));
        second.push(await rank(requests[1]));
      }
      const run = fairRun(first, second);
      const pair = [first[run], second[run]];
      const counts = this.#counts(request, ...pair);
      const times = [first, second].map((runs) =>
        milliseconds(median(runs.map((response) => response.latency_ms.total))),
      );
      byId("compare-result").replaceChildren(
        this.#table(...pair, headings, times, counts),
        element("p", { class: "hint" }, TIMES_HINT),
      );
      this.#compared = request;
      return [
        before,
        ...cautions(first, second),
        comparison(...pair),
        ...counts.slice(0, 1).map(inWords),
      ]
        .filter(Boolean)
        .join(" ");
    });
  }

  #find() {
    return this.#attempt("Ranking drawn requests without reasoning and with it …", async () => {
      const request = this.#requestOf();
      const { changed, tried, degraded } = await findChanged(
        request,
        this.#titles.ids(),
        this.#info,
      );
      if (changed === null) {
        this.#compared = request;
        const left = degraded ? ` ${degraded} of them were degraded and do not count.` : "";
        return `Reasoning changed no slate of ${tried} requests drawn.${left}`;
      }
      this.#showRequest(changed);
      this.#fill("reasoning");
      const drawn = tried === 1 ? "1 request was" : `${tried} requests were`;
      await this.#run(`${drawn} drawn; reasoning changes the last, which is now shown above.`);
      return byId("compare-words").textContent;
    });
  }

  async #attempt(meanwhile, work) {
    const words = byId("compare-words");
    words.textContent = meanwhile;
    this.#compared = null;
    byId("compare-result").replaceChildren();
    this.show();
    try {
      words.textContent = await work();
    } catch (error) {
      words.textContent = `Not compared: ${error.message}`;
      this.#onrefusal(error);
    } finally {
      this.show();
    }
  }

  // Different values of the attribute on both sides, over the first positions and over all.
  #counts(request, first, second) {
    const attribute = this.#defaultAttribute;
    const count = (response, length) =>
      countValues(request, response, length, attribute, (id) => this.#titles.movie(id));
    const length = Math.max(first.slate.length, second.slate.length);
    return [...new Set([Math.min(SHORT, length), length])]
      .map((each) => ({ attribute, length: each, A: count(first, each), B: count(second, each) }))
      .filter(({ A, B }) => A + B > 0);
  }

  #table(first, second, headings, times, counts) {
    const figure = (label, one, other) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, label),
        element("td", {}, one),
        element("td", {}, other),
        element("td", {}),
      );
    const both = (label, value) => figure(label, value(first), value(second));
    return element(
      "table",
      {},
      element("caption", {}, "Both slates"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          ...["", ...headings, "Where A has the item of B"].map((text) =>
            element("th", { scope: "col" }, text),
          ),
        ),
      ),
      element(
        "tbody",
        {},
        ...counts.map(({ attribute, length, A, B }) =>
          figure(`Number of different ${attribute} in the first ${length}`, String(A), String(B)),
        ),
        both("Steps", ({ reasoning }) => `${reasoning.steps_used} of ${reasoning.budget}`),
        [first, second].every(({ utility }) => utility === null)
          ? null
          : both("Estimated utility", ({ utility }) =>
              utility === null ? "not estimated: only sampled slates are" : utility.toFixed(3),
            ),
        figure(`Time, median of ${RUNS}`, ...times),
        both("Model", ({ model }) => `${model.name}, version ${model.version}, ${model.variant}`),
        ...this.#places(slateIds(first), slateIds(second)),
      ),
    );
  }

  #places(one, other) {
    const cell = (id) =>
      element(
        "td",
        {},
        id === undefined ? null : itemName(this.#titles.name(id)),
        id === undefined ? null : element("div", { class: "meta" }, this.#titles.details(id)),
      );
    return Array.from({ length: Math.max(one.length, other.length) }, (_, place) =>
      element(
        "tr",
        { class: one[place] === other[place] ? false : "differs" },
        element("th", { scope: "row" }, String(place + 1)),
        cell(one[place]),
        cell(other[place]),
        element("td", {}, origin(one.indexOf(other[place]), place)),
      ),
    );
  }
}

const inWords = ({ attribute, length, A, B }) =>
  A === B
    ? `The first ${length} of both sides have ${A} different ${attribute}.`
    : `The first ${length} of A have ${A} different ${attribute}, those of B ${B}.`;

// The place, from 0, in side A of the item that side B has at a place; -1: none.
function origin(before, place) {
  if (before === place) return "same place";
  return before < 0 ? "not in A" : `at ${before + 1}`;
}
