"use strict";
// Tables sort by the column whose heading is pressed: ascending, descending, then as written.
(() => {
  const NUMBER = /^[<>≤≥±~]?\s*([+\-−]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?)/i;
  const MISSING = new Set(["", "-", "–", "—", "none", "n/a"]);
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  function textOf(row, column) {
    return row.cells[column].textContent.trim();
  }

  function numberOf(text) {
    const match = NUMBER.exec(text);
    return match ? Number(match[1].replaceAll(",", "").replace("−", "-")) : null;
  }

  // Missing values come last in both orders, and equal ones keep the order in which they were
  // written.
  function sorted(rows, column, direction) {
    const texts = rows.map((row) => textOf(row, column));
    const present = texts.filter((text) => !MISSING.has(text.toLowerCase()));
    const numeric = present.every((text) => numberOf(text) !== null);
    const entries = rows.map((row, index) => ({
      row,
      missing: MISSING.has(texts[index].toLowerCase()),
      key: numeric ? numberOf(texts[index]) : texts[index],
    }));
    const sign = direction === "descending" ? -1 : 1;
    entries.sort((a, b) => {
      if (a.missing || b.missing) return a.missing - b.missing;
      return sign * (numeric ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true }));
    });
    return entries.map((entry) => entry.row);
  }

  function makeSortable(table) {
    const head = table.tHead?.rows[0];
    const body = table.tBodies[0];
    const written = body ? [...body.rows] : [];
    const columns = head?.cells.length ?? 0;
    // A cell over several rows or columns belongs to no column alone.
    if (written.length < 2 || written.some((row) => row.cells.length !== columns)) return;
    for (const [column, header] of [...head.cells].entries()) {
      if (!header.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const direction = NEXT[header.getAttribute("aria-sort")];
        for (const other of head.cells) {
          if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        }
        header.setAttribute("aria-sort", direction);
        body.append(...(direction === "none" ? written : sorted(written, column, direction)));
      });
    }
  }

  document.querySelectorAll("table").forEach(makeSortable);
})();
