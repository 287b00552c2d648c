// Titles of items, where the service's files have them for the model that it serves.

import { idText } from "./requests.js";

const MAX_OPTIONS = 40;

/** The movies of the served model by id; empty for any other model. */
export class Titles {
  #movies = new Map();
  notice = "";

  /** Take the file of titles if it belongs to a model of this name. */
  load(file, model) {
    if (file.model !== model) return;
    this.notice = file.notice;
    for (const [id, [title, year, genres, director]] of Object.entries(file.items)) {
      this.#movies.set(id, { title, year, genres, director });
    }
  }

  /** Return title, year, genres and director of an item, undefined where nothing is known. */
  movie(id) {
    return this.#movies.get(idText(id));
  }

  /** Return the title of an item, else its id. */
  name(id) {
    return this.movie(id)?.title ?? idText(id);
  }

  /** Return year and genres of an item on one line, empty where nothing is known. */
  details(id) {
    const { year, genres = [] } = this.movie(id) ?? {};
    return [year, genres.join(", ")].filter(Boolean).join(" · ");
  }

  /** Return the ids of all items that have a title. */
  ids() {
    return [...this.#movies.keys()];
  }

  /** Return the first items whose title or id has a text. */
  search(text) {
    const [wanted, matches] = [text.trim().toLowerCase(), []];
    for (const [id, movie] of wanted ? this.#movies : []) {
      if (id === wanted || (movie.title ?? "").toLowerCase().includes(wanted)) {
        matches.push({ id, title: movie.title });
        if (matches.length === MAX_OPTIONS) break;
      }
    }
    return matches;
  }
}
