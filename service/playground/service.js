// Calls to the public routes of the service that serves this page.

import { idText, parseExact, recordsOf } from "./requests.js";

const ROOT = new URL("../", import.meta.url);
const LISTS_PER_CALL = 32;
const MAX_PROBES = 256;
const STEP_ATTEMPTS = 2;

/** The address of the service, without a slash at the end. */
export const ORIGIN = ROOT.href.replace(/\/$/, "");

/** A refusal: `status`, `problem` (RFC 9457, empty where there is none) and a message. */
export class Refusal extends Error {
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map(
      ({ field, rule, value }) => `${field}: ${rule}, got ${value}`,
    );
    super(fields.length ? fields.join("\n") : (problem.detail ?? `status ${status}`));
    this.status = status;
    this.problem = problem;
  }
}

/** The keys that this tab sends, kept until it closes. */
export const keys = {
  get(name) {
    return sessionStorage.getItem(`playground.${name}`) ?? "";
  },
  set(name, value) {
    sessionStorage.setItem(`playground.${name}`, value.trim());
  },
};

async function call(method, path, body, keyName, signal) {
  const headers = {};
  const key = keys.get(keyName);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(new URL(path, ROOT), {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
    signal,
  });
  const text = await response.text();
  if (!response.ok) {
    let problem = {};
    try {
      problem = JSON.parse(text);
    } catch {
      // A proxy in front of the service may answer with a page.
    }
    throw new Refusal(response.status, problem);
  }
  return text ? parseExact(text) : null;
}

/** Return `GET /info`. */
export const readInfo = () => call("GET", "info", undefined, "api");

/** Return a file of this page. */
export async function readFile(name) {
  const response = await fetch(new URL(`playground/${name}`, ROOT));
  if (!response.ok) throw new Refusal(response.status, {});
  return response.json();
}

/** Rank a request, without explanations and so in the time that its caller waits. */
export const rank = (request) => call("POST", "rerank", { ...request, explain: false }, "api");

/** Rank requests in calls of at most `limit` lists, one after the other; return the responses. */
export async function rankBatch(requests, limit = LISTS_PER_CALL, signal = undefined) {
  const size = Math.min(limit, LISTS_PER_CALL);
  const answers = [];
  for (let begin = 0; begin < requests.length; begin += size) {
    const part = { requests: requests.slice(begin, begin + size) };
    const { responses } = await call("POST", "rerank/batch", part, "api", signal);
    answers.push(...responses);
  }
  return answers;
}

/** Rank a request with the explanations that cost next to nothing. */
export const explain = (request) => call("POST", "rerank", { ...request, explain: true }, "api");

/**
 * Rank a request once more for the states of single steps, which take longer than the slate.
 *
 * Returns null where there are none: the service refuses them (RERANK_MAX_TRACES=0), or they were
 * not there by the deadline. The first ones open a graph, so that is tried twice. `signal` ends the
 * calls, and the service then drops their lists.
 */
export async function explainSteps(request, signal) {
  for (let attempt = 0; attempt < STEP_ATTEMPTS; attempt++) {
    try {
      const response = await call(
        "POST",
        "rerank",
        { ...request, explain: "steps" },
        "api",
        signal,
      );
      if (response.slate.some((entry) => entry.explanation.steps)) return response;
    } catch (error) {
      if (error instanceof Refusal && error.status === 422) return null;
      throw error;
    }
  }
  return null;
}

/**
 * Return the ids, as text, of the candidates that neither item table nor entity store has.
 *
 * A response only counts them, so candidates are ranked alone where some are unknown and some not.
 * Raises what these calls raise. `info` is `GET /info`; `signal` ends the calls.
 */
export async function unknownIds(request, response, info, signal) {
  const records = recordsOf(request.candidates);
  const ids = records.map((record) => idText(record.id));
  if (response.unknown_candidates === 0) return new Set();
  if (response.unknown_candidates === records.length) return new Set(ids);
  const { context, model } = request;
  const user = userOfProbes(request, info);
  const probes = records.slice(0, MAX_PROBES).map(({ boost, topics, ...candidate }) => {
    return { candidates: [candidate], user, context, model, reasoning: { budget: 0 } };
  });
  const responses = await rankBatch(probes, info.max_lists_per_call, signal);
  return new Set(ids.filter((_, row) => responses[row]?.unknown_candidates));
}

// A journal records each list of a user, so a probe names the user only where a feature of users is
// required, or where that cannot be told: `GET /info` has the features of the default model alone.
function userOfProbes({ user, model }, info) {
  const isDefault = (model ?? info.model.name) === info.model.name;
  const required = info.features.some((feature) => feature.of === "user" && feature.required);
  if (isDefault && !required) return undefined;
  const { history, ...rest } = user ?? {}; // a history may be long, and makes no item known
  return rest;
}

/**
 * Report one event of a user. Raises Refusal also if the event alone is refused.
 *
 * `requestId` and `position` are those of the slate that the user saw: a journal joins by them.
 */
export async function sendEvent(user, item, type, requestId, position) {
  const event_id = crypto.randomUUID();
  const event = { event_id, user, item, type, request_id: requestId, position };
  const { refused } = await call("POST", "feedback", { events: [event] }, "api");
  if (refused.length) throw new Refusal(200, { errors: refused });
}

/** Return the record of a user, null if the store has none. */
export async function readUser(id) {
  try {
    return await call("GET", `users/${pathOf(id)}`, undefined, "state");
  } catch (error) {
    if (error instanceof Refusal && error.problem.code === "unknown_entity") return null;
    throw error;
  }
}

/** Delete a user from the store. */
export const forgetUser = (id) => call("DELETE", `users/${pathOf(id)}`, undefined, "state");

// The URL parser would remove the segments `.` and `..`, however they are encoded.
function pathOf(id) {
  const text = encodeURIComponent(idText(id));
  if (text === "." || text === "..") {
    throw new Refusal(0, { detail: `user ${text}: a browser cannot send this id in a path` });
  }
  return text;
}
