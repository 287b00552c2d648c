// Requests as data: reading, changing, sharing and printing them. Nothing here needs a page.

/** Parse JSON, with integers beyond 2^53 as text where the browser can tell: the same ids. */
export function parseExact(text) {
  return JSON.parse(text, (key, value, context) => {
    if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
    const source = context?.source;
    return source !== undefined && /^-?\d+$/.test(source) ? source : value;
  });
}

/** Return the text by which ids are compared: 1, "1" and " 1" are one id. */
export const idText = (id) => String(id).trim();

/** Return the candidates of a request as records, whatever their form. */
export function recordsOf(candidates) {
  if (Array.isArray(candidates)) {
    return candidates.map((entry) => (isObject(entry) ? entry : { id: entry }));
  }
  if (!isObject(candidates) || !Array.isArray(candidates.id)) return [];
  return candidates.id.map((id, row) => {
    const record = { id };
    for (const field of ["score", "boost"]) {
      const value = candidates[field]?.[row];
      if (value !== undefined && value !== null) record[field] = value;
    }
    for (const field of ["features", "groups", "topics"]) {
      for (const [name, column] of Object.entries(candidates[field] ?? {})) {
        const value = column?.[row];
        if (value !== undefined && value !== null) (record[field] ??= {})[name] = value;
      }
    }
    return record;
  });
}

/** Return the history as records with a label; an id alone counts as liked. */
export function historyOf(request) {
  const history = request.user?.history;
  if (!Array.isArray(history)) return [];
  return history.map((entry) =>
    isObject(entry) ? { label: 1, ...entry } : { id: entry, label: 1 },
  );
}

/** Return the value at a path of names, undefined if a part of it is missing. */
export function valueAt(request, path) {
  return path.reduce((value, name) => (isObject(value) ? value[name] : undefined), request);
}

/** Return a copy with another value at a path; undefined removes it and objects left empty. */
export function withValue(request, path, value) {
  const [name, ...rest] = path;
  const changed = { ...(isObject(request) ? request : {}) };
  const inner = rest.length ? withValue(changed[name], rest, value) : value;
  if (inner === undefined || (rest.length && Object.keys(inner).length === 0)) delete changed[name];
  else changed[name] = inner;
  return changed;
}

/**
 * Return a copy that is not explored: it states the temperature that it would have by default.
 *
 * A service that explores samples the slates of requests that state neither sampling nor
 * temperatures. `GET /info`, here `info`, has the temperatures of the default model alone, so a
 * request for another model is returned as it is.
 */
export function unexplored(request, info) {
  const { sampling, temperatures, model } = request;
  const stated = [sampling, temperatures?.reason, temperatures?.recommend];
  if (stated.some((value) => value !== undefined && value !== null)) return request;
  if ((model ?? info.model.name) !== info.model.name) return request;
  return withValue(request, ["temperatures", "recommend"], info.temperatures.recommend);
}

/** Return a copy with these records as candidates. */
export const withRecords = (request, records) => ({ ...request, candidates: records });

/** Return a copy without a candidate, and without the rules about it. */
export function withoutCandidate(request, row) {
  const records = recordsOf(request.candidates);
  const id = idText(records[row].id);
  const rest = withRecords(
    request,
    records.filter((_, other) => other !== row),
  );
  return withBlocked(withPin(rest, id, undefined), id, false);
}

/** Return a copy with a candidate moved to another row. */
export function withMoved(request, row, to) {
  const records = [...recordsOf(request.candidates)];
  if (to < 0 || to >= records.length) return request;
  records.splice(to, 0, ...records.splice(row, 1));
  return withRecords(request, records);
}

/** Return a copy with a field of one candidate changed; undefined removes it. */
export function withField(request, row, field, value) {
  const records = [...recordsOf(request.candidates)];
  records[row] = withValue(records[row], [field], value);
  return withRecords(request, records);
}

/** Return a copy with an item pinned at a position from 0, or unpinned by undefined. */
export function withPin(request, id, position) {
  const pinned = Object.entries(request.constraints?.pinned ?? {});
  const rest = pinned.filter(([key]) => idText(key) !== idText(id));
  if (position !== undefined) rest.push([idText(id), position]);
  const value = rest.length ? Object.fromEntries(rest) : undefined;
  return withValue(request, ["constraints", "pinned"], value);
}

/** Return a copy with an item blocked or not. */
export function withBlocked(request, id, blocked) {
  const rest = (request.constraints?.blocked ?? []).filter((key) => idText(key) !== idText(id));
  if (blocked) rest.push(id);
  return withValue(request, ["constraints", "blocked"], rest.length ? rest : undefined);
}

/** Return the position that an item is pinned at, undefined for none. */
export function pinOf(request, id) {
  const pinned = Object.entries(request.constraints?.pinned ?? {});
  return pinned.find(([key]) => idText(key) === idText(id))?.[1];
}

/** True if an item is blocked. */
export const isBlocked = (request, id) =>
  (request.constraints?.blocked ?? []).some((key) => idText(key) === idText(id));

/** Return the problem of a request that controls cannot show, null if there is none. */
export function problemOf(request) {
  if (!isObject(request)) return 'a request is an object, such as {"candidates": ["1", "296"]}';
  if (recordsOf(request.candidates).length === 0) return "candidates: at least one";
  for (const name of ["user", "constraints", "reasoning", "temperatures"]) {
    if (request[name] !== undefined && request[name] !== null && !isObject(request[name])) {
      return `${name}: an object`;
    }
  }
  const { pinned, blocked } = request.constraints ?? {};
  if (pinned !== undefined && pinned !== null && !isObject(pinned))
    return "constraints.pinned: an object";
  if (blocked !== undefined && blocked !== null && !Array.isArray(blocked)) {
    return "constraints.blocked: a list";
  }
  return null;
}

/** Return the fragment of an address that holds a request. */
export function fragmentOf(request) {
  const bytes = new TextEncoder().encode(JSON.stringify(request));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return `#request=${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** Return the request that a fragment holds, null if it holds none that can be read. */
export const requestIn = (fragment) => readFragment(fragment).request;

/** Return a sentence on a fragment whose request cannot be read, null for any other fragment. */
export const linkProblem = (fragment) => readFragment(fragment).problem;

/** True if a fragment holds a request, damaged or not; `#request` alone is a section. */
export const isLink = (fragment) => /^#request(=|%3D)/i.test(fragment);

/** True if two requests are the same, in whatever order their fields are. */
export const sameRequest = (one, other) => inOrder(one) === inOrder(other);

const inOrder = (value) =>
  JSON.stringify(value, (key, inner) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).toSorted(byName)) : inner,
  );

const byName = ([one], [other]) => (one < other ? -1 : 1); // the names of an object differ

function readFragment(fragment) {
  if (!isLink(fragment)) return { request: null, problem: null };
  const match = /^#request=([\w-]+)$/.exec(fragment);
  let request;
  try {
    const binary = atob(match[1].replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    request = parseExact(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    const problem =
      "This link is damaged: the request after #request= cannot be decoded. Part of it may be " +
      "missing; copy the whole link again.";
    return { request: null, problem };
  }
  const problem = problemOf(request);
  if (problem === null) return { request, problem };
  return { request: null, problem: `The request in this link is not valid: ${problem}.` };
}

/** Print a request as JSON, with short values on one line. */
export function printed(value, indent = "") {
  const flat = onOneLine(value);
  if (flat.length + indent.length <= 78 || !isObjectOrList(value)) return flat;
  const deeper = `${indent}  `;
  if (Array.isArray(value)) {
    const lines = value.map((entry) => deeper + printed(entry, deeper));
    return `[\n${lines.join(",\n")}\n${indent}]`;
  }
  const lines = Object.entries(value).map(
    ([name, inner]) => `${deeper}${JSON.stringify(name)}: ${printed(inner, deeper)}`,
  );
  return `{\n${lines.join(",\n")}\n${indent}}`;
}

function onOneLine(value) {
  if (!isObjectOrList(value)) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(onOneLine).join(", ")}]`;
  const entries = Object.entries(value).map(
    ([name, inner]) => `${JSON.stringify(name)}: ${onOneLine(inner)}`,
  );
  return `{${entries.join(", ")}}`;
}

/** Print the command or program that sends a request; `keyed`: to a service with API keys. */
export const SNIPPETS = {
  curl(request, origin, keyed) {
    const key = keyed ? ` -H "Authorization: Bearer $RERANK_KEY"` : "";
    const body = printed(request).replaceAll("'", `'\\''`);
    return `curl -s ${origin}/rerank${key} -d '${body}'\n`;
  },
  python(request, origin, keyed) {
    const key = keyed ? `, api_key=os.environ["RERANK_KEY"]` : "";
    return `${keyed ? "import os\n\n" : ""}from rerank_client import Client

request = ${asPython(request)}
client = Client(${JSON.stringify(origin)}${key})
response = client.rerank(**request)
print(response.ids, response.degraded)
`;
  },
  node(request, origin, keyed) {
    const key = keyed ? "\n  headers: { Authorization: `Bearer ${process.env.RERANK_KEY}` }," : "";
    return `const request = ${printed(request)};
const response = await fetch(${JSON.stringify(`${origin}/rerank`)}, {
  method: "POST",${key}
  body: JSON.stringify(request),
});
const answer = await response.json();
console.log(answer.slate?.map((entry) => entry.id) ?? answer);
`;
  },
};

function asPython(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (!isObjectOrList(value)) return JSON.stringify(value);
  const entries = Array.isArray(value)
    ? value.map((inner) => asPython(inner, `${indent}    `))
    : Object.entries(value).map(
        ([name, inner]) => `${JSON.stringify(name)}: ${asPython(inner, `${indent}    `)}`,
      );
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const flat = open + entries.join(", ") + close;
  if (flat.length + indent.length <= 90 && !flat.includes("\n")) return flat;
  return `${open}\n${entries.map((entry) => `${indent}    ${entry},\n`).join("")}${indent}${close}`;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const isObjectOrList = (value) => typeof value === "object" && value !== null;
