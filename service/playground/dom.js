// Elements of HTML and SVG from data. Text only ever becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element of the page with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Return an HTML element.
 *
 * Attributes whose name begins with `on` are listeners; false, null and undefined leave one out.
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an SVG element, with attributes and children as of `element`. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Return a phrase of an item: its title or id, with the direction of its own script. */
export function itemName(text) {
  return element("bdi", { class: "item" }, text);
}

/** Return a function that runs `work` once, `ms` milliseconds after its last call. */
export function delayed(work, ms) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
}

/**
 * Replace the children of a list. The keyboard stays in its control, by the name in `data-focus`,
 * or goes to the one at its place where that control is gone.
 */
export function redraw(list, children) {
  const controls = () => [...list.querySelectorAll("[data-focus]")];
  const place = controls().indexOf(document.activeElement);
  const name = place < 0 ? null : document.activeElement.dataset.focus;
  list.replaceChildren(...children);
  if (name === null) return;
  const usable = controls().filter((control) => !control.disabled);
  const same = usable.find((control) => control.dataset.focus === name);
  (same ?? usable[Math.min(place, usable.length - 1)])?.focus();
}
