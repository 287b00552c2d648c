// The slate beside the initial ranking: moving items, lines between the two, and badges.

import { byId, element, itemName, redraw, shape } from "./dom.js";
import { badgesOf, movement, signed } from "./measures.js";
import { idText, recordsOf } from "./requests.js";

const MAX_LEFT_OUT = 30; // candidates behind the slate's length that are listed
const INSET = 4; // pixels between an item and its line

/** Draws responses; `actions` returns the buttons beside an entry of a response. */
export class SlateView {
  #titles;
  #actions;
  #lines = shape("svg", { "aria-hidden": "true" });

  constructor(titles, actions) {
    this.#titles = titles;
    this.#actions = actions;
    byId("columns").append(this.#lines);
    new ResizeObserver(() => this.#drawLines()).observe(byId("columns"));
  }

  /** Show the response to a request; `unknown` holds ids that no table has, as text. */
  show(request, response, unknown) {
    const records = recordsOf(request.candidates);
    const badges = badgesOf(request, response, unknown, (id) => this.#titles.movie(id));
    const places = new Map(response.slate.map((entry) => [idText(entry.id), entry]));
    const last = Math.max(...response.slate.map((entry) => entry.initial_position));
    const listed = records.slice(0, Math.max(last + 1, MAX_LEFT_OUT));
    const before = topsOf(byId("ranked"));
    byId("initial").replaceChildren(
      ...listed.map((record, place) => this.#initialItem(record, place, badges, places)),
      ...(records.length > listed.length
        ? [element("li", { class: "meta" }, `and ${records.length - listed.length} more`)]
        : []),
    );
    redraw(
      byId("ranked"),
      response.slate.map((entry) => this.#slateItem(entry, badges, response)),
    );
    byId("slate-summary").textContent = summary(request, response, records.length);
    animate(byId("ranked"), before);
    this.#drawLines();
  }

  #initialItem(record, place, badges, places) {
    const id = idText(record.id);
    const inSlate = places.has(id);
    const details = this.#titles.details(id);
    return element(
      "li",
      { "data-id": id, class: inSlate ? false : "left-out" },
      element("span", { class: "place" }, `${place + 1}. `),
      itemName(this.#titles.name(id)),
      " ",
      ...badgeElements(badges.get(id)),
      inSlate && details ? element("div", { class: "meta" }, `${id} · ${details}`) : null,
      inSlate ? null : element("span", { class: "meta" }, "not in the slate"),
    );
  }

  #slateItem(entry, badges, response) {
    const id = idText(entry.id);
    const moved = movement(entry.initial_position - entry.position);
    const kinds = [...(badges.get(id) ?? [])];
    if (response.degraded !== null && entry.logprob === null) kinds.push("degraded");
    const probability = entry.explanation?.probability;
    return element(
      "li",
      { "data-id": id, "data-kind": moved.kind },
      element("span", { class: "actions" }, ...this.#actions(entry, response)),
      element("span", { class: "place" }, `${entry.position + 1}. `),
      itemName(this.#titles.name(id)),
      " ",
      element(
        "span",
        { class: `move ${moved.kind}`, role: "img", "aria-label": moved.words },
        moved.text,
      ),
      " ",
      ...badgeElements(kinds),
      element(
        "div",
        { class: "meta" },
        [
          this.#titles.details(id) || null,
          probability === null || probability === undefined
            ? null
            : `probability ${probability.toFixed(3)}`,
          ...intentWords(entry.explanation, (other) => this.#titles.name(other)),
        ]
          .filter(Boolean)
          .join(" · "),
      ),
    );
  }

  #drawLines() {
    const box = byId("columns").getBoundingClientRect();
    const left = new Map([...byId("initial").children].map((item) => [item.dataset.id, item]));
    const paths = [...byId("ranked").children].map((item) => {
      const from = left.get(item.dataset.id)?.getBoundingClientRect();
      if (from === undefined) return null;
      const to = byId("ranked").getBoundingClientRect();
      const [x0, x1] = [from.right - box.left + INSET, to.left - box.left - INSET];
      const y0 = from.top + from.height / 2 - box.top;
      const y1 =
        to.top - box.top + item.offsetTop - byId("ranked").offsetTop + item.offsetHeight / 2;
      const middle = (x0 + x1) / 2;
      const d = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
      return shape("path", { d, class: item.dataset.kind });
    });
    this.#lines.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    this.#lines.replaceChildren(...paths.filter(Boolean));
  }
}

function summary(request, response, candidates) {
  const { slate, reasoning, degraded, unknown_candidates: unknown } = response;
  const moved = slate.filter((entry) => entry.initial_position !== entry.position).length;
  const words = [
    `${slate.length} of ${candidates} candidates; ${moved} moved from where they were.`,
    `Reasoning took ${reasoning.steps_used} of ${reasoning.budget} steps.`,
  ];
  if (degraded !== null) words.push(`Degraded: ${degraded.reasons.join(", ")}.`);
  if (unknown) words.push(`${unknown} of the candidates unknown to the model.`);
  if (response.utility !== null) words.push(`Estimated utility ${response.utility.toFixed(3)}.`);
  return words.join(" ");
}

function intentWords(explanation, name) {
  const words = [];
  if (explanation?.boost) words.push(`boost ${signed(explanation.boost)}`);
  if (explanation?.diversity) words.push(`diversity ${signed(explanation.diversity)}`);
  if (explanation?.instead_of !== null && explanation?.instead_of !== undefined) {
    words.push(`in place of ${name(explanation.instead_of)}`);
  }
  return words;
}

const badgeElements = (kinds = []) =>
  kinds.map((kind) => element("span", { class: "badge" }, kind));

const topsOf = (list) =>
  new Map([...list.children].map((item) => [item.dataset.id, item.getBoundingClientRect().top]));

// Items start where they were and move to their place; without motion if the user prefers so.
function animate(list, before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const moving = [...list.children].filter((item) => before.has(item.dataset.id));
  const shifts = moving.map(
    (item) => before.get(item.dataset.id) - item.getBoundingClientRect().top,
  );
  moving.forEach((item, place) => {
    item.style.transform = `translateY(${shifts[place]}px)`;
  });
  list.getBoundingClientRect(); // computes the styles above, from which the transition starts
  for (const item of moving) {
    item.classList.add("moving");
    item.style.transform = "";
    item.addEventListener("transitionend", () => item.classList.remove("moving"), {
      once: true,
    });
  }
}
