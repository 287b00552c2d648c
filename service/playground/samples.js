// The select of samples, which names the request that the page shows.

import { byId, element } from "./dom.js";
import { sameRequest } from "./requests.js";

const NONE = "none: a request of your own";

/** The select; `onchoice` is called with the request of the sample that was chosen. */
export class SampleSelect {
  #samples;
  #origin = null; // the sample that the request was edited from
  #own = element("option", { value: "" }, NONE);

  constructor(samples, onchoice) {
    this.#samples = samples;
    const select = byId("sample");
    select.append(...samples.map(({ name }, place) => element("option", { value: place }, name)));
    select.addEventListener("change", () => {
      const sample = samples[select.value];
      if (sample !== undefined) onchoice(sample.request);
    });
  }

  /** Name a request; `edited`: it was made of the one before, not put in its place. */
  show(request, edited) {
    const select = byId("sample");
    const place = this.#samples.findIndex((sample) => sameRequest(sample.request, request));
    if (place >= 0) {
      this.#origin = this.#samples[place];
      this.#own.remove();
      select.value = String(place);
      return;
    }
    if (!edited) this.#origin = null;
    this.#own.textContent = this.#origin === null ? NONE : `${this.#origin.name} (edited)`;
    if (!this.#own.isConnected) select.prepend(this.#own);
    select.value = "";
  }
}
