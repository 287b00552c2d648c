// One stacked bar of the milliseconds of a request.

import { byId, element } from "./dom.js";
import { milliseconds } from "./measures.js";

const STAGES = ["parse", "state", "features", "queue", "inference", "respond"];

/** Show the stages of a response, and the time that the browser waited. */
export function showTiming(response, waitedMs) {
  const { total, ...stages } = response.latency_ms;
  const parts = STAGES.map((name, colour) => [name, stages[name], colour]).filter(
    ([, value]) => value !== undefined,
  );
  const bar = element("div", { class: "stages", "aria-hidden": "true" });
  for (const [, value, colour] of parts) {
    const part = element("span", { class: `stage-${colour}` });
    part.style.width = `${(100 * value) / Math.max(total, 1e-6)}%`;
    bar.append(part);
  }
  const rows = parts.map(([name, value, colour]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("span", { class: `swatch stage-${colour}` }), name),
      element("td", {}, milliseconds(value)),
    ),
  );
  byId("time-bar").replaceChildren(
    bar,
    element(
      "p",
      {},
      `${milliseconds(total)} in the service; this page waited ${milliseconds(waitedMs)}.`,
    ),
    element(
      "table",
      {},
      element("caption", {}, "Stages of the request"),
      element("tbody", {}, ...rows),
    ),
  );
}
