// The page: reads what is served, ranks the request after each change, and shows the response.

import { Comparison } from "./compare.js";
import { byId, delayed, element } from "./dom.js";
import { Editor } from "./editor.js";
import { Loop } from "./loop.js";
import { sameSteps } from "./measures.js";
import { SNIPPETS, fragmentOf, requestIn } from "./requests.js";
import {
  ORIGIN,
  Refusal,
  explain,
  explainSteps,
  keys,
  readFile,
  readInfo,
  unknownIds,
} from "./service.js";
import { SlateView } from "./slate.js";
import { TOPICS, attributesOf } from "./sliders.js";
import { OTHER_SLATE, PENDING, ThinkingView } from "./thinking.js";
import { showTiming } from "./timing.js";
import { Titles } from "./titles.js";

const PAUSE_MS = 150; // after a change, before it is ranked

/** The parts of the page and the request that they share. */
class Page {
  #call = 0;
  #followUps = new AbortController();

  constructor(info, titles, samples) {
    this.info = info;
    this.samples = samples;
    this.loop = new Loop(
      info,
      titles,
      () => this.editor.request,
      () => this.rank(),
      (error) => this.refused(error),
    );
    this.thinking = new ThinkingView(titles);
    this.slate = new SlateView(titles, (entry, response) => [
      this.thinking.opener(entry),
      ...this.loop.reactions(entry, response),
    ]);
    const rankSoon = delayed(() => this.rank(), PAUSE_MS);
    this.editor = new Editor(info, titles, () => {
      this.loop.show();
      if (byId("auto").checked) rankSoon();
    });
    const attribute = attributesOf(info, {}, TOPICS)[0];
    this.compare = new Comparison(
      info,
      titles,
      attribute,
      () => this.editor.request,
      (request) => this.editor.set(request),
      (error) => this.refused(error),
    );
    this.#listen();
    this.editor.set(requestIn(location.hash) ?? samples[0].request);
    if (!byId("auto").checked) this.rank();
  }

  #listen() {
    const sample = byId("sample");
    sample.append(
      ...this.samples.map(({ name }, place) => element("option", { value: place }, name)),
    );
    sample.addEventListener("change", () => this.editor.set(this.samples[sample.value].request));
    byId("rank").addEventListener("click", () => this.rank());
    byId("share").addEventListener("click", () => {
      history.replaceState(null, "", fragmentOf(this.editor.request));
      copy(location.href, "link");
    });
    for (const button of document.querySelectorAll("button.copy")) {
      const { language } = button.dataset;
      const print = SNIPPETS[language];
      button.addEventListener("click", () =>
        copy(print(this.editor.request, ORIGIN, keys.get("api") !== ""), language),
      );
    }
    window.addEventListener("hashchange", () => {
      const request = requestIn(location.hash);
      if (request !== null) this.editor.set(request);
    });
    for (const name of ["api", "state"]) {
      byId(`${name}-key`).value = keys.get(name);
      byId(`${name}-key`).addEventListener("change", (event) => {
        keys.set(name, event.target.value);
        this.rank();
      });
    }
  }

  /** Rank the request and show the response, which is returned; null if it was refused. */
  async rank() {
    const call = ++this.#call;
    this.#followUps.abort();
    this.#followUps = new AbortController();
    const { request } = this.editor;
    const began = performance.now();
    try {
      const response = await explain(request);
      const waitedMs = performance.now() - began;
      if (call !== this.#call) return null; // a later request is under way
      byId("problem").hidden = true;
      this.slate.show(request, response, new Set());
      this.thinking.show(response, PENDING);
      showTiming(response, waitedMs);
      this.loop.keep(response);
      byId("status").textContent = `Ranked ${response.slate.length} positions.`;
      this.#followUp(request, call, response, this.#followUps.signal);
      return response;
    } catch (error) {
      if (call === this.#call) this.refused(error);
      return null;
    }
  }

  // Badges of unknown candidates and states of steps follow the slate, which must not wait for them.
  async #followUp(request, call, response, signal) {
    // Without the badges, the summary of the slate still has the number of unknown candidates.
    const probes = unknownIds(request, response, this.info, signal);
    const unknown = await probes.catch(() => new Set());
    if (call !== this.#call) return;
    if (unknown.size > 0) this.slate.show(request, response, unknown);
    try {
      const ranked = response.slate.some((entry) => entry.entropy !== null);
      const explained = ranked ? await explainSteps(request, signal) : null;
      if (call !== this.#call) return;
      if (explained === null) this.thinking.show(response);
      else if (sameSteps(response, explained)) this.thinking.show(explained);
      else this.thinking.show(response, OTHER_SLATE);
    } catch (error) {
      if (call !== this.#call) return;
      this.thinking.show(response);
      this.refused(error);
    }
  }

  /** Show an error, and the fields for keys if one is missing. */
  refused(error) {
    const problem = byId("problem");
    problem.hidden = false;
    const lines = String(error.message)
      .split("\n")
      .map((line) => element("p", {}, line));
    const title =
      error instanceof Refusal ? "The service refused this" : "The service did not answer";
    problem.replaceChildren(element("strong", {}, title), ...lines);
    byId("status").textContent = "";
    if (error instanceof Refusal && [401, 403].includes(error.status)) byId("keys").hidden = false;
  }
}

async function copy(text, kind) {
  const field = byId("copied-text");
  field.value = text;
  try {
    await navigator.clipboard.writeText(text);
    byId("copied-words").textContent = `Copied as ${kind}.`;
  } catch {
    // without permission, or not on a secure address
    byId("copied").open = true;
    field.focus();
    field.select();
    byId("copied-words").textContent = `Copy the selected text, ${kind}.`;
  }
}

async function start() {
  const titles = new Titles();
  const [info, file, samples] = await Promise.all([
    readInfo(),
    readFile("titles.json"),
    readFile("samples.json"),
  ]);
  titles.load(file, info.model.name);
  const { model, max_candidates: candidates, slate_length: length, state } = info;
  byId("served").textContent = [
    `Model ${model.name}, version ${model.version}`,
    `at most ${candidates} candidates, slates of ${length}`,
    `entity store: ${state?.engine ?? "off"}`,
  ].join("; ");
  byId("notice").textContent = titles.notice;
  new Page(info, titles, samples);
}

start().catch((error) => {
  byId("served").textContent = `The page could not start: ${error.message}`;
});
