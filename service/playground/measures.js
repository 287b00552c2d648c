// Figures and sentences about responses. Nothing here needs a page.

import { idText, isBlocked, pinOf, recordsOf } from "./requests.js";

const MAX_DIGITS = 6;

/** Return the ids of a slate as text, in order. */
export const slateIds = (response) => response.slate.map((entry) => idText(entry.id));

/** Return the positions at which two slates have different items. */
export function changedPositions(first, second) {
  const [one, other] = [slateIds(first), slateIds(second)];
  const length = Math.max(one.length, other.length);
  return Array.from({ length }, (_, place) => place).filter((place) => one[place] !== other[place]);
}

/** True if two responses of one model have the same slate and took the same steps. */
export function sameSteps(first, second) {
  const [one, other] = [first, second].map(({ model, slate }) =>
    JSON.stringify([
      [model.name, model.version],
      slate.map((entry) => [idText(entry.id), entry.reasoning_steps]),
    ]),
  );
  return one === other;
}

/**
 * Return Kendall's tau of two slates over the items that both have, with their number.
 *
 * tau is 1 for the same order and -1 for the reverse; null for fewer than two common items.
 */
export function kendallTau(first, second) {
  const places = new Map(slateIds(second).map((id, place) => [id, place]));
  const order = slateIds(first)
    .filter((id) => places.has(id))
    .map((id) => places.get(id));
  let balance = 0;
  for (let i = 0; i < order.length; i++) {
    for (let j = i + 1; j < order.length; j++) balance += order[i] < order[j] ? 1 : -1;
  }
  const pairs = (order.length * (order.length - 1)) / 2;
  return { tau: pairs ? balance / pairs : null, common: order.length };
}

/** Return each item of the second slate that moved, with its places from 0; null: not in it. */
export function moves(first, second) {
  const [before, after] = [slateIds(first), slateIds(second)];
  const ids = [...new Set([...after, ...before])];
  const place = (list, id) => (list.includes(id) ? list.indexOf(id) : null);
  return ids
    .map((id) => ({ id, from: place(before, id), to: place(after, id) }))
    .filter(({ from, to }) => from !== to);
}

/** Return the number of the first run in which neither side was degraded, 0 if there is none. */
export function fairRun(first, second) {
  const run = first.findIndex((one, place) => [one, second[place]].every(isWhole));
  return Math.max(run, 0);
}

/** Return sentences on differences that settings may not explain, for the runs of sides A and B. */
export function cautions(first, second) {
  const run = fairRun(first, second);
  const words = [];
  for (const [side, runs] of [["A", first], ["B", second]]) {
    if (!isWhole(runs[run])) {
      const reasons = runs[run].degraded.reasons.join(", ");
      words.push(`${side} was degraded (${reasons}), which may be why the slates differ or agree.`);
    }
    const slates = new Set(runs.filter(isWhole).map((response) => slateIds(response).join("\n")));
    if (slates.size > 1) {
      words.push(
        `${side} gave ${slates.size} different slates in ${runs.length} runs: the service ` +
          "explores, or something changed in between, so differences need not come from settings.",
      );
    }
  }
  return words;
}

const isWhole = (response) => response.degraded === null;

/** Return words and class of a movement by so many places; positive is up. */
export function movement(places) {
  if (places > 0) return { text: `▲ ${places}`, words: `up ${places}`, kind: "up" };
  if (places < 0) return { text: `▼ ${-places}`, words: `down ${-places}`, kind: "down" };
  return { text: "=", words: "unmoved", kind: "same" };
}

/**
 * Return the states of a position: before reasoning and after each step.
 *
 * Each has `entropy` in nats, `choice` and `choices` as in the response. Where the service gives no
 * steps, `choice` is undefined and the states between the first and the last are absent.
 */
export function statesOf(entry) {
  if (entry.entropy === null) return [];
  const steps = entry.explanation?.steps;
  if (steps?.length) return steps;
  const first = { entropy: entry.entropy, choices: [] };
  return entry.reasoning_steps ? [first, { entropy: entry.entropy_after, choices: [] }] : [first];
}

/** Return how many digits, `least` to 6, tell the highest of some values from the next one. */
export function digitsApart(values, least) {
  const [first, next] = values.toSorted((a, b) => b - a);
  if (next === undefined || first === next) return least;
  let digits = least;
  while (digits < MAX_DIGITS && first.toFixed(digits) === next.toFixed(digits)) digits++;
  return digits;
}

/** Return a function that prints the probabilities of an explanation. */
export function probabilityPrinter({ probability, alternatives = [] }) {
  const digits = digitsApart([probability, ...alternatives.map((each) => each.probability)], 2);
  return (value) => value.toFixed(digits);
}

/** Return sentences about why an item is at its position; `name` maps an id to its title. */
export function placement(entry, name) {
  const { explanation, initial_position: initial, position } = entry;
  const words = [];
  if (entry.logprob !== null && explanation) {
    const { probability, alternatives = [], boost, diversity, instead_of: other } = explanation;
    const print = probabilityPrinter(explanation);
    const closest = alternatives.map(
      (each) => `${name(each.id)} (${print(each.probability)})`,
    );
    const share = `Chosen with probability ${print(probability)} from what was left`;
    words.push(closest.length ? `${share}; closest were ${closest.join(", ")}.` : `${share}.`);
    if (boost) words.push(`Its boost added ${signed(boost)}.`);
    if (diversity) words.push(`Diversity added ${signed(diversity)}.`);
    if (other !== null && other !== undefined) {
      words.push(`Without boosts and diversity it would have been ${name(other)}.`);
    }
  }
  words.push(
    initial === position
      ? "The initial ranking has it at the same position."
      : `The initial ranking has it at ${initial + 1}.`,
  );
  return words.join(" ");
}

/** Return one sentence about the reasoning of a position; `name` maps an id to its title. */
export function thought(entry, reasoning, name) {
  if (entry.entropy === null) return "Nothing was chosen here: the position is pinned or degraded.";
  const taken = entry.reasoning_steps;
  const budget = reasoning.budget_per_position;
  if (budget === 0) return "No step was granted: the budget is 0.";
  if (taken === 0) {
    const [entropy, threshold] = [entry.entropy, reasoning.entropy_threshold];
    return `Took no step: its entropy, ${nats(entropy)}, is not above ${nats(threshold)}.`;
  }
  const count = `Took ${taken} of ${budget} ${budget === 1 ? "step" : "steps"}`;
  const choices = statesOf(entry).map((state) => state.choice);
  const [first, last] = [choices[0], choices.at(-1)];
  if (first === undefined) return `${count}.`;
  if (idText(first) !== idText(last)) {
    return `${count}; the choice changed from ${name(first)} to ${name(last)}.`;
  }
  const other = choices.find((choice) => idText(choice) !== idText(first));
  const between = other === undefined ? "" : `; ${name(other)} led in between`;
  return `${count}; nothing changed${between}.`;
}

/** Print an entropy in nats. */
export const nats = (value) => `${value.toFixed(2)} nats`;

/** Return the median of an odd number of values. */
export const median = (values) => values.toSorted((a, b) => a - b)[(values.length - 1) / 2];

/** Print nats that were added to a logit. */
export const signed = (value) => `${value < 0 ? "−" : "+"}${nats(Math.abs(value))}`;

/** Print milliseconds. */
export const milliseconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} ms`;

/** Return the values of an attribute that a candidate has: inline, else those of its movie. */
export function valuesOf(record, attribute, movie) {
  const inline =
    record.topics?.[attribute] ?? record.groups?.[attribute] ?? record.features?.[attribute];
  const value = inline ?? { genres: movie?.genres, director: movie?.director }[attribute];
  if (value === undefined || value === null) return [];
  return (Array.isArray(value) ? value : [value]).map(String);
}

/** Return the number of different values of an attribute in the first positions of a slate. */
export function countValues(request, response, length, attribute, movieOf) {
  const slate = new Set(slateIds(response).slice(0, length));
  const records = recordsOf(request.candidates).filter((record) => slate.has(idText(record.id)));
  const values = records.flatMap((record) => valuesOf(record, attribute, movieOf(record.id)));
  return new Set(values).size;
}

/** Return the badges of each candidate by the text of its id. */
export function badgesOf(request, response, unknown, movieOf) {
  const slate = new Set(slateIds(response));
  const records = recordsOf(request.candidates);
  const [attribute, maximum] = Object.entries(request.constraints?.max_per_group ?? {})[0] ?? [];
  const counts = new Map();
  for (const record of attribute === undefined ? [] : records) {
    if (!slate.has(idText(record.id))) continue;
    for (const value of valuesOf(record, attribute, movieOf(record.id))) {
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
  }
  const badges = new Map();
  for (const record of records) {
    const id = idText(record.id);
    const kinds = [];
    if (pinOf(request, id) !== undefined) kinds.push("pinned");
    if (isBlocked(request, id)) kinds.push("blocked");
    const values = attribute === undefined ? [] : valuesOf(record, attribute, movieOf(id));
    const full = values.some((value) => (counts.get(value) ?? 0) >= maximum);
    if (full && !slate.has(id) && !isBlocked(request, id)) kinds.push("capped");
    if (record.boost)
      kinds.push(record.boost > 0 ? `boosted +${record.boost}` : `boosted ${record.boost}`);
    if (unknown.has(id)) kinds.push("unknown");
    badges.set(id, kinds);
  }
  return badges;
}

/** Return a sentence that compares two responses, each with the name of its side. */
export function comparison(first, second) {
  const changed = changedPositions(first, second);
  const taken = (response) => response.reasoning.steps_used;
  if (changed.length === 0) {
    if (taken(first) === taken(second)) return "Both slates are the same.";
    const steps = `A took ${taken(first)} steps and B ${taken(second)}`;
    return `Reasoning changed nothing: ${steps}, and the slates are the same.`;
  }
  const places = changed.map((place) => place + 1).join(", ");
  const length = Math.max(first.slate.length, second.slate.length);
  const which =
    changed.length === length
      ? `All ${length} positions differ`
      : `${changed.length} of ${length} positions differ (${places})`;
  return `${which}: ${agreement(first, second)}.`;
}

// The items that both slates have, and how far their order agrees.
function agreement(first, second) {
  const { tau, common } = kendallTau(first, second);
  const same = common === first.slate.length && common === second.slate.length;
  const items = same
    ? "the same items in another order"
    : `${common} ${common === 1 ? "item is" : "items are"} in both slates`;
  if (tau === null) return items;
  const share = Math.round(50 * (tau + 1));
  return `${items}; ${share} % of their pairs keep their order (Kendall's tau ${tau.toFixed(2)})`;
}
