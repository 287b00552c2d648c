// The editor of a request: controls, a table and JSON, which all show the same request.

import { byId, delayed, element, itemName, redraw } from "./dom.js";
import * as requests from "./requests.js";
import { GROUPS, TOPICS, attributesOf, buildSliders } from "./sliders.js";

const TYPING_MS = 250; // a pause after which typed text is read

/**
 * Holds the request.
 *
 * `onchange` is called after each change with the new request, and true if it was edited and not
 * replaced; `onproblem` with the problem of the typed JSON, "" if there is none.
 */
export class Editor {
  request = { candidates: [] };
  #info;
  #titles;
  #onchange;
  #onproblem;
  #updateSliders;
  #laidAside = null; // the history that the request stated before it was left to the store

  constructor(info, titles, onchange, onproblem) {
    this.#info = info;
    this.#titles = titles;
    this.#onchange = onchange;
    this.#onproblem = onproblem;
    this.#updateSliders = buildSliders(byId("sliders"), info, (work) => this.change(work));
    this.#listen();
  }

  /** Replace the request. */
  set(request) {
    this.#laidAside = null;
    this.#update(request, { edited: false });
  }

  /** Replace the request by a function of it. */
  change(work) {
    this.#update(work(this.request), { edited: true });
  }

  // Show the request everywhere but in the control that it was typed into.
  #update(request, { edited, typed = false }) {
    this.request = request;
    if (!typed) byId("json").value = requests.printed(request);
    this.#report("");
    if (!leavesHistory(request)) this.#laidAside = null;
    this.#draw();
    this.#onchange(request, edited);
  }

  #report(problem) {
    byId("json-problem").textContent = problem;
    this.#onproblem(problem);
  }

  #listen() {
    byId("json").addEventListener(
      "input",
      delayed(() => this.#readJson(), TYPING_MS),
    );
    byId("user").addEventListener(
      "input",
      delayed(() => {
        const id = byId("user").value.trim();
        this.change((request) => requests.withValue(request, ["user", "id"], id || undefined));
      }, TYPING_MS),
    );
    byId("stored-history").addEventListener("change", (event) => {
      const leave = event.target.checked;
      const history = leave ? undefined : (this.#laidAside ?? []);
      const { history: stated } = this.request.user ?? {};
      this.#laidAside = leave ? (stated ?? null) : null;
      this.change((request) => requests.withValue(request, ["user", "history"], history));
    });
    this.#listenToForm("add-history", (id) => this.#addHistory(id));
    this.#listenToForm("add-candidate", (id) => this.#addCandidate(id));
    for (const name of ["cap", "cap-by"]) {
      byId(name).addEventListener("change", () => this.#readCap());
    }
    byId("diversity-by").addEventListener("change", (event) =>
      this.#readAttribute(event.target.value),
    );
  }

  #listenToForm(name, add) {
    const form = byId(name);
    const input = form.querySelector("input");
    input.addEventListener("input", () => this.#offerTitles(input.value));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const id = input.value.trim();
      if (id) add(id);
      input.value = "";
    });
  }

  #offerTitles(text) {
    const options = this.#titles
      .search(text)
      .map(({ id, title }) => element("option", { value: id }, title));
    byId("titles").replaceChildren(...options);
  }

  // Added to a history that was laid aside, an item brings it back.
  #addHistory(id) {
    const user = { ...this.request.user, history: this.#laidAside ?? this.request.user?.history };
    const history = [...requests.historyOf({ user }), { id, label: 1 }];
    this.change((request) => requests.withValue(request, ["user", "history"], history));
  }

  #addCandidate(id) {
    const records = requests.recordsOf(this.request.candidates);
    if (records.some((record) => requests.idText(record.id) === id)) return;
    this.change((request) => requests.withRecords(request, [...records, { id }]));
  }

  #readCap() {
    const text = byId("cap").value;
    const attribute = byId("cap-by").value;
    const cap = text === "" || !attribute ? undefined : { [attribute]: Number(text) };
    this.change((request) => requests.withValue(request, ["constraints", "max_per_group"], cap));
  }

  #readAttribute(by) {
    this.change((request) => {
      const list = Array.isArray(request.diversity) ? request.diversity : [request.diversity];
      const changed = by ? { ...list[0], by } : undefined;
      const rest = list.slice(1);
      if (rest.length) return { ...request, diversity: changed ? [changed, ...rest] : rest };
      return requests.withValue(request, ["diversity"], changed);
    });
  }

  #readJson() {
    let request;
    try {
      request = requests.parseExact(byId("json").value);
    } catch (error) {
      this.#report(`This is not valid JSON: ${error.message}`);
      return;
    }
    const problem = requests.problemOf(request);
    if (problem === null) this.#update(request, { edited: true, typed: true });
    else this.#report(`This is not a valid request: ${problem}`);
  }

  #draw() {
    const { request } = this;
    const user = byId("user");
    if (document.activeElement !== user) user.value = request.user?.id ?? "";
    const stored = byId("stored-history");
    stored.checked = leavesHistory(request);
    stored.disabled = this.#info.state === null;
    this.#drawHistory();
    this.#drawCandidates();
    this.#drawCap();
    const first = Array.isArray(request.diversity) ? request.diversity[0] : request.diversity;
    fillSelect("diversity-by", attributesOf(this.#info, request, TOPICS), first?.by, "nothing");
    byId("diversity-by").disabled = !this.#info.intent;
    this.#updateSliders(request);
  }

  #drawHistory() {
    const aside = this.#laidAside !== null;
    const stated = this.#laidAside ?? this.request.user?.history;
    const history = requests.historyOf({ user: { history: stated } });
    const put = (entries) =>
      this.change((request) => requests.withValue(request, ["user", "history"], entries));
    const chips = history.map((entry, place) => {
      const name = this.#titles.name(entry.id);
      const liked = entry.label > 0.5;
      const rest = history.filter((_, other) => other !== place);
      const flipped = history.map((each, other) =>
        other === place ? { ...each, label: liked ? 0 : 1 } : each,
      );
      return element(
        "li",
        { title: this.#titles.details(entry.id) },
        itemName(name),
        element(
          "button",
          {
            type: "button",
            "aria-label": `${name}: ${liked ? "liked" : "passed over"}`,
            disabled: aside,
            "data-focus": `flip ${place}`,
            onclick: () => put(flipped),
          },
          liked ? "liked" : "passed over",
        ),
        element(
          "button",
          {
            type: "button",
            "aria-label": `Remove ${name} from the history`,
            disabled: aside,
            "data-focus": `remove ${place}`,
            onclick: () => put(rest),
          },
          "×",
        ),
      );
    });
    redraw(byId("history"), chips);
    byId("history").classList.toggle("aside", aside);
    byId("history-note").textContent =
      aside && history.length
        ? `Not sent with the request: these ${history.length} entries come back when you untick.`
        : "";
  }

  // Later, because a control reports its change before the keyboard has left it for another one.
  #drawCandidates() {
    setTimeout(() => {
      const records = requests.recordsOf(this.request.candidates);
      redraw(
        byId("candidates").tBodies[0],
        records.map((record, row) => this.#candidateRow(record, row, records.length)),
      );
    });
  }

  #candidateRow(record, row, count) {
    const { request } = this;
    const id = requests.idText(record.id);
    const name = this.#titles.name(id);
    const pin = requests.pinOf(request, id);
    const number = (label, value, range, put) =>
      element("input", {
        type: "number",
        "aria-label": `${label} ${name}`,
        value: value ?? "",
        ...range,
        "data-focus": `${label} ${id}`,
        onchange: (event) =>
          put(event.target.value === "" ? undefined : Number(event.target.value)),
      });
    const button = (label, text, disabled, work) =>
      element(
        "button",
        {
          type: "button",
          "aria-label": `${label} ${name}`,
          "data-focus": `${label} ${id}`,
          disabled,
          onclick: () => this.change(work),
        },
        text,
      );
    const pinInput = number(
      "Pin at position",
      pin === undefined ? undefined : pin + 1,
      { min: 1, step: 1 },
      (place) =>
        this.change((each) =>
          requests.withPin(each, id, place === undefined ? undefined : place - 1),
        ),
    );
    const blockInput = element("input", {
      type: "checkbox",
      "aria-label": `Block ${name}`,
      checked: requests.isBlocked(request, id),
      "data-focus": `Block ${id}`,
      onchange: (event) => {
        const blocked = event.target.checked;
        this.change((each) => requests.withBlocked(each, record.id, blocked));
      },
    });
    const boostInput = number("Boost", record.boost, { min: -10, max: 10, step: 0.1 }, (boost) =>
      this.change((each) => requests.withField(each, row, "boost", boost)),
    );
    boostInput.disabled = !this.#info.intent;
    return element(
      "tr",
      {},
      element("td", { class: "place" }, String(row + 1)),
      element(
        "td",
        { class: "name" },
        itemName(name),
        " ",
        element("span", { class: "meta" }, this.#titles.movie(id)?.year ?? ""),
      ),
      element("td", {}, pinInput),
      element("td", {}, blockInput),
      element("td", {}, boostInput),
      element(
        "td",
        { class: "order" },
        button("Move up", "↑", row === 0, (each) => requests.withMoved(each, row, row - 1)),
        " ",
        button("Move down", "↓", row === count - 1, (each) =>
          requests.withMoved(each, row, row + 1),
        ),
        " ",
        button("Remove", "×", count === 1, (each) => requests.withoutCandidate(each, row)),
      ),
    );
  }

  #drawCap() {
    const [attribute, maximum] =
      Object.entries(this.request.constraints?.max_per_group ?? {})[0] ?? [];
    fillSelect("cap-by", attributesOf(this.#info, this.request, GROUPS), attribute);
    byId("cap").value = maximum ?? "";
  }
}

const leavesHistory = ({ user }) => user?.history === undefined || user.history === null;

/** Fill a select with names; `none` is the text of its empty option, if it has one. */
export function fillSelect(id, names, chosen, none) {
  const options = chosen === undefined || names.includes(chosen) ? names : [...names, chosen];
  const kept = byId(id).value;
  byId(id).replaceChildren(
    ...(none === undefined ? [] : [element("option", { value: "" }, none)]),
    ...options.map((name) => element("option", { value: name }, name)),
  );
  byId(id).value = chosen ?? (none === undefined && options.includes(kept) ? kept : byId(id).value);
}
