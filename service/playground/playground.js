// The page: reads what is served, ranks the request after each change, and shows the response.

import { Comparison } from "./compare.js";
import { byId, delayed, element } from "./dom.js";
import { Editor } from "./editor.js";
import { Loop } from "./loop.js";
import { sameSteps } from "./measures.js";
import { SNIPPETS, fragmentOf, isLink, linkProblem, requestIn, sameRequest } from "./requests.js";
import { SampleSelect } from "./samples.js";
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
const ADDRESS_MS = 300; // after a change, before the address holds it: browsers limit these writes
const BROKEN = "This is the slate of the last valid request: the JSON has a problem.";
const OLDER = "This is the slate of an earlier request: rank again.";

/** The parts of the page and the request that they share. */
class Page {
  #call = 0;
  #followUps = new AbortController();
  #shown = null; // the request whose slate is shown
  #refused = false; // true if the last ranking failed
  #broken = false; // true if the typed JSON has a problem
  #rankSoon;
  #updateAddress = delayed(() => {
    if (isLink(location.hash)) history.replaceState(null, "", fragmentOf(this.editor.request));
  }, ADDRESS_MS);

  constructor(info, titles, samples) {
    this.info = info;
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
    this.samples = new SampleSelect(samples, (request) => this.#replace(request));
    this.#rankSoon = delayed(() => byId("auto").checked && this.rank(), PAUSE_MS);
    this.editor = new Editor(
      info,
      titles,
      (request, edited) => this.#changed(request, edited),
      (problem) => {
        this.#broken = problem !== "";
        this.#markSlate();
      },
    );
    const attribute = attributesOf(info, {}, TOPICS)[0];
    this.compare = new Comparison(
      info,
      titles,
      attribute,
      () => this.editor.request,
      (request) => this.#replace(request),
      (error) => this.refused(error),
    );
    this.#listen();
    this.editor.set(requestIn(location.hash) ?? samples[0].request);
    showLinkProblem("The first sample is shown instead.");
    if (!byId("auto").checked) this.rank();
  }

  // Show another request in place of this one, in the address too if that holds one.
  #replace(request) {
    byId("link-problem").hidden = true;
    this.editor.set(request);
    this.#updateAddress();
  }

  #changed(request, edited) {
    if (edited) {
      byId("link-problem").hidden = true;
      this.#updateAddress();
    }
    this.samples.show(request, edited);
    this.loop.show();
    this.compare.show();
    this.#markSlate();
    if (byId("auto").checked) this.#rankSoon();
  }

  // Say that the slate is not that of the request; not for the moment until it is ranked.
  #markSlate() {
    const older = this.#shown !== null && !sameRequest(this.#shown, this.editor.request);
    const waits = byId("auto").checked && !this.#refused;
    const stale = this.#broken || (older && !waits);
    byId("slate-stale").hidden = !stale;
    if (stale) byId("slate-stale").textContent = this.#broken ? BROKEN : OLDER;
  }

  #listen() {
    byId("rank").addEventListener("click", () => this.rank());
    byId("auto").addEventListener("change", () => this.#markSlate());
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
      showLinkProblem("The request is still the one from before.");
      const request = requestIn(location.hash);
      if (request !== null) this.editor.set(request);
    });
    for (const link of document.querySelectorAll('a[href^="#"]')) {
      link.addEventListener("click", (event) => goTo(link, event));
    }
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
      this.#shown = request;
      this.#refused = false;
      this.#markSlate();
      this.loop.keep(request, response);
      this.slate.show(request, response, new Set());
      this.thinking.show(response, PENDING);
      showTiming(response, waitedMs);
      byId("status").textContent = `Ranked ${response.slate.length} positions.`;
      this.#followUp(request, call, response, this.#followUps.signal);
      return response;
    } catch (error) {
      if (call === this.#call) {
        this.#refused = true;
        this.#markSlate();
        this.refused(error);
      }
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

// Show the problem of a damaged link in the address, and what the page shows meanwhile.
function showLinkProblem(meanwhile) {
  const problem = linkProblem(location.hash);
  byId("link-problem").hidden = problem === null;
  byId("link-problem").textContent = problem === null ? "" : `${problem} ${meanwhile}`;
}

// Go to a section; an address that holds a request keeps it.
function goTo(link, event) {
  const target = byId(link.hash.slice(1));
  if (!isLink(location.hash) || target === null) return;
  event.preventDefault();
  target.scrollIntoView();
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
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
