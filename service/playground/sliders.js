// Sliders of the request. Where a request leaves a setting out, its slider is at the default.

import { element } from "./dom.js";
import { nats } from "./measures.js";
import { recordsOf, valueAt, withValue } from "./requests.js";

const STEPS = 100; // of a logarithmic slider
const [COLDEST, HOTTEST] = [0.1, 10]; // of the temperatures on it; JSON takes 0.01 to 100

/** Kinds of features whose values may be limited, and spread by diversity. */
export const GROUPS = ["category", "identifier"];
export const TOPICS = ["categories", ...GROUPS];

/** Return the attributes of some kinds of features, and those that candidates bring. */
export function attributesOf(info, request, kinds) {
  const declared = kinds.flatMap((kind) =>
    info.features.filter((feature) => feature.kind === kind && feature.of !== "user"),
  );
  const names = new Set(declared.map((feature) => feature.name));
  for (const record of recordsOf(request.candidates)) {
    for (const name of Object.keys(record.groups ?? {})) names.add(name);
    for (const name of kinds === TOPICS ? Object.keys(record.topics ?? {}) : []) names.add(name);
  }
  return [...names];
}

/** Return the definitions of the sliders for what `GET /info` says. */
export function definitions(info) {
  const list = [
    {
      id: "budget",
      label: "Budget, reasoning steps per position",
      path: ["reasoning", "budget"],
      fallback: info.budget_per_position,
      min: 0,
      max: Math.max(1, info.budget_per_position),
      step: 1,
      text: (value) => `${value} ${value === 1 ? "step" : "steps"}`,
    },
    thresholdSlider(info),
    temperatureSlider("reason", "Temperature of reasoning", info),
    temperatureSlider("recommend", "Temperature of the choice", info),
  ];
  if (info.intent && attributesOf(info, {}, TOPICS).length) {
    list.push({
      id: "diversity",
      label: "Weight of diversity",
      path: ["diversity", "weight"],
      fallback: 0,
      min: 0,
      max: 3,
      step: 0.05,
      text: (value) => (value ? value.toFixed(2) : "0, none"),
    });
  }
  return list;
}

function thresholdSlider(info) {
  const base = {
    id: "threshold",
    label: "Entropy threshold",
    path: ["reasoning", "entropy_threshold"],
    fallback: info.entropy_threshold,
  };
  const curve = info.gate?.curve;
  if (!curve?.length) {
    const text = (value) => (value < 0 ? "always reason" : nats(value));
    return { ...base, min: -0.1, max: 6.3, step: 0.1, text };
  }
  const stops = [{ threshold: -1, quantile: null }, ...curve];
  const nearest = (value) =>
    stops.reduce((best, stop, place) => {
      const distance = Math.abs(stop.threshold - value);
      return distance < Math.abs(stops[best].threshold - value) ? place : best;
    }, 0);
  const text = (value) => {
    if (value < 0) return "always reason";
    const stop = stops[nearest(value)];
    if (Math.abs(stop.threshold - value) > 1e-5) return nats(value);
    const share = Math.round(100 * (1 - stop.quantile));
    return `${nats(value)}: ${share} % of the choices in validation are above`;
  };
  return {
    ...base,
    text,
    min: 0,
    max: stops.length - 1,
    step: 1,
    toSlider: nearest,
    fromSlider: (place) => stops[place].threshold,
  };
}

function temperatureSlider(name, label, info) {
  const scale = Math.log(HOTTEST / COLDEST) / STEPS;
  return {
    id: name,
    label,
    path: ["temperatures", name],
    fallback: info.temperatures[name],
    min: 0,
    max: STEPS,
    step: 1,
    text: (value) => value.toFixed(2),
    toSlider: (value) => Math.round(Math.log(value / COLDEST) / scale),
    fromSlider: (place) => Number((COLDEST * Math.exp(place * scale)).toFixed(3)),
  };
}

/** Build the sliders, which call `change` with a function from request to request. */
export function buildSliders(place, info, change) {
  const updates = definitions(info).map((definition) => {
    const { id, label, path, fallback, min, max, step, text } = definition;
    const by = attributesOf(info, {}, TOPICS)[0];
    const { toSlider = Number, fromSlider = Number } = definition;
    const inputId = `slider-${id}`;
    const output = element("output", { for: inputId, id: `${inputId}-value` });
    const input = element("input", {
      id: inputId,
      type: "range",
      min,
      max,
      step,
      "aria-describedby": `${inputId}-value`,
      oninput: () => change((request) => moved(request, path, fromSlider(Number(input.value)), by)),
    });
    const reset = element(
      "button",
      {
        type: "button",
        "aria-label": `${label}: default`,
        onclick: () => change((request) => moved(request, path, undefined)),
      },
      "Default",
    );
    place.append(
      element(
        "div",
        { class: "slider" },
        element("label", { for: inputId }, label),
        reset,
        input,
        output,
      ),
    );
    return (request) => {
      const value = firstOf(request, path);
      const current = typeof value === "number" ? value : fallback;
      input.value = String(toSlider(current));
      const words =
        value === undefined || value === null ? `${text(current)} (default)` : text(current);
      output.value = words;
      input.setAttribute("aria-valuetext", words);
      reset.disabled = value === undefined || value === null;
    };
  });
  return (request) => updates.forEach((update) => update(request));
}

function firstOf(request, path) {
  const list = request.diversity;
  if (path[0] !== "diversity" || !Array.isArray(list)) return valueAt(request, path);
  return list[0]?.[path[1]];
}

// Diversity is an object or a list of them; the slider moves the weight of the first.
function moved(request, path, value, by) {
  if (path[0] !== "diversity") return withValue(request, path, value);
  const [first, ...rest] = Array.isArray(request.diversity)
    ? request.diversity
    : [request.diversity];
  if (value === undefined) {
    return withValue(request, ["diversity"], rest.length ? rest : undefined);
  }
  const changed = { by, ...first, weight: value };
  return { ...request, diversity: rest.length ? [changed, ...rest] : changed };
}
