"use strict";

// What is to survive reading the page anew lies in its entry of the history, which pages of files have too.
const root = document.documentElement;
const kept = { ...(history.state?.diptych ?? {}) };
function keep(change) {
  Object.assign(kept, change);
  history.replaceState({ ...history.state, diptych: kept }, "");
}

if (kept.theme) root.dataset.theme = kept.theme;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep({ theme: root.dataset.theme });
});

const palette = document.getElementById("palette");
function paint(published) {
  if (published) root.dataset.palette = "published"; else delete root.dataset.palette;
  palette.setAttribute("aria-pressed", `${published}`);
}
// Pages without curves have no choice of their colours.
if (palette) {
  paint(kept.published === true);
  palette.addEventListener("click", () => {
    keep({ published: kept.published !== true });
    paint(kept.published);
  });
}

// The data of a chart or table: columns and rows, out of what the page carries.
function tableOf(place) {
  const wanted = place.dataset.columns?.split(" ");
  const chosen = ({ columns, rows }) => {
    if (!wanted) return { columns, rows };
    const names = ["step", "epoch", ...wanted];
    const places = names.map((name) => columns.indexOf(name));
    const picked = rows.map((row) => places.map((at) => (at < 0 ? null : row[at])));
    // A step at which none of them was logged is no row of theirs.
    return { columns: names, rows: picked.filter((row) => row.slice(2).some((value) => value !== null)) };
  };
  if (place.dataset.table) return chosen(JSON.parse(place.dataset.table));
  if (place.dataset.from) return chosen(JSON.parse(document.getElementById(place.dataset.from).dataset.table));
  if (place.dataset.runs) {
    const all = [...document.querySelectorAll("#all-runs > div")].map((run) => {
      const { columns, rows } = chosen(JSON.parse(run.dataset[place.dataset.runs]));
      return { columns: ["run", ...columns], rows: rows.map((row) => [run.dataset.runName, ...row]) };
    });
    return { columns: all[0].columns, rows: all.flatMap((run) => run.rows) };
  }
  return shownTable(place);
}

// What stands in a table or in tiles, as text.
function shownTable(place) {
  const text = (cell) => cell.textContent.replaceAll("\u202f", " ").trim().replace(/\s+/g, " ");
  if (place.dataset.of === "tiles") {
    const tiles = [...place.closest("section").querySelectorAll(".tile")];
    const rows = tiles.map((tile) => [
      text(tile.querySelector("h3")), text(tile.querySelector(".value")), [...tile.querySelectorAll(".note")].map(text).join("; "),
    ]);
    return { columns: ["name", "value", "notes"], rows };
  }
  let holder = place;
  while (holder && !holder.matches("table") && !holder.querySelector("table")) holder = holder.previousElementSibling ?? holder.parentElement;
  const table = holder.matches("table") ? holder : holder.querySelector("table");
  const rows = [...table.rows].map((row) => [...row.cells].map(text));
  return table.tHead ? { columns: rows[0], rows: rows.slice(1) } : { columns: ["name", "value"], rows };
}

const FORMS = {
  csv: ["text/csv", ({ columns, rows }) => {
    const cell = (value) => {
      const text = `${value ?? ""}`;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
  }],
  json: ["application/json", ({ columns, rows }) =>
    `${JSON.stringify(rows.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at] ?? null]))), null, 1)}\n`],
};

// Each place of data gets a button for each form; the file is made here, of what the page carries.
for (const place of document.querySelectorAll(".under")) {
  const { file } = place.dataset;
  const row = document.createElement("span");
  row.className = "save";
  row.append("Data");
  for (const [form, [kind, write]] of Object.entries(FORMS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = form.toUpperCase();
    button.setAttribute("aria-label", `Save the data of ${file} as ${form.toUpperCase()}`);
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([write(tableOf(place))], { type: kind }));
      link.download = `${file.replace(/[^\p{L}\p{N}._-]+/gu, "-")}.${form}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
    row.append(" ", button);
  }
  place.prepend(row);
}

// Where the reader is: which part is at the top, what is open, what has the focus.
function labelOf(element) {
  const section = element.closest("section, figure, header, nav");
  const own = element.getAttribute("aria-label") ?? element.id ?? "";
  return [section?.id ?? "", element.closest("figure")?.querySelector("h3, img")?.textContent ?? "", element.tagName, own || element.textContent].join("|");
}

function remember() {
  const parts = [...document.querySelectorAll("section[id]")];
  // The part that begins above the middle of the window, if only just; what is above it may grow.
  const at = parts.filter((part) => part.getBoundingClientRect().top <= innerHeight / 2).at(-1);
  const active = document.activeElement;
  keep({
    part: at?.id ?? "",
    offset: at ? -at.getBoundingClientRect().top : scrollY,
    open: [...document.querySelectorAll("details[open] > summary")].map(labelOf),
    focus: active && active !== document.body ? labelOf(active) : "",
  });
}

function restore() {
  if (typeof kept.offset !== "number") return;
  const open = new Set(kept.open);
  for (const summary of document.querySelectorAll("summary")) {
    if (open.has(labelOf(summary))) summary.parentElement.open = true;
  }
  const part = kept.part ? document.getElementById(kept.part) : null;
  scrollTo({ top: (part ? part.getBoundingClientRect().top + scrollY : 0) + kept.offset, behavior: "instant" });
  if (kept.focus) {
    const all = [...document.querySelectorAll("a[href], button, summary, input, [tabindex='0']")];
    all.find((element) => labelOf(element) === kept.focus)?.focus({ preventScroll: true });
  }
  keep({ offset: null });
}

// After so many readings without anything new the run is taken to have ended without a word.
const UNCHANGED = 120;

// While the run goes on, the page is read anew from time to time: not while someone is using it, nor where less motion is
// asked for until its button is pressed.
const live = document.querySelector(".live");
if (live) {
  const button = document.getElementById("refresh");
  const status = live.querySelector("[role=status]");
  const every = Number(live.dataset.every);
  const same = kept.stamp === live.dataset.stamp ? (kept.same ?? 0) + 1 : 0;
  keep({ stamp: live.dataset.stamp, same });
  let paused = kept.paused ?? matchMedia("(prefers-reduced-motion: reduce)").matches;
  let touched = 0;
  for (const kind of ["keydown", "pointerdown", "wheel", "touchstart", "input"]) {
    addEventListener(kind, () => (touched = Date.now()), { passive: true, capture: true });
  }
  const busy = () =>
    document.hidden || Date.now() - touched < 3_000 || !getSelection().isCollapsed || document.querySelector(".plot.reading") !== null;
  const tell = (text) => {
    if (status.textContent !== text) status.textContent = text;
  };
  const show = () => {
    button.setAttribute("aria-pressed", `${!paused}`);
    button.textContent = paused ? "Refreshing is paused" : "Refreshing";
    tell(paused ? "The run goes on; press to follow it." : `The run goes on; the page is read anew every ${every} s.`);
  };
  live.hidden = false;
  if (same >= UNCHANGED) {
    paused = true;
    show();
    tell("Nothing new for a long time: the run may have ended without a word. Press to go on.");
  } else {
    show();
  }
  button.addEventListener("click", () => {
    paused = !paused;
    keep({ paused, same: 0 });
    show();
  });
  let due = Date.now() + 1_000 * every;
  setInterval(() => {
    if (paused) due = Date.now() + 1_000 * every;
    if (paused || Date.now() < due || busy()) return;
    remember();
    location.reload();
  }, 500);
  history.scrollRestoration = "manual";
} else {
  history.scrollRestoration = "auto";
}
addEventListener("load", restore);

// Reads the value of every curve off a picture: at the pointer, or a fiftieth of the width further with the arrow keys.
function readableTogether(plot) {
  const [left, right, top, bottom] = plot.dataset.area.split(" ").map(Number);
  const [first, last] = plot.dataset.domain.split(" ").map(Number);
  const svg = plot.querySelector("svg");
  const rule = plot.querySelector(".rule");
  const figure = plot.closest("figure");
  const output = figure.querySelector("output");
  const rows = [...figure.querySelectorAll(".values li")].map((row) => {
    const value = row.querySelector("b");
    return { value, untouched: value.textContent, text: row.dataset.points, points: null };
  });
  const untouched = output.textContent;
  const whole = plot.dataset.over === "step";
  let at = null;

  function nearest(points, x) {
    let [low, high] = [0, points.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
  }

  function show(x) {
    at = Math.max(first, Math.min(last, x));
    const place = left + ((at - first) / (last - first)) * (right - left);
    for (const [name, to] of [["x1", place], ["x2", place], ["y1", top], ["y2", bottom]]) rule.setAttribute(name, to);
    output.textContent = `${plot.dataset.over} ${whole ? Math.round(at).toLocaleString("en") : at.toFixed(2)}`;
    for (const row of rows) {
      row.points ??= row.text === "" ? [] : row.text.split(";").map((point) => point.split(",").map(Number));
      const end = row.points.at(-1);
      // A curve that ended before this place has no value here.
      const point = end && at <= end[0] + (last - first) / 100 ? nearest(row.points, at) : null;
      const percent = plot.dataset.percent === "true";
      row.value.textContent = point === null ? "–" : percent ? `${(100 * point[1]).toFixed(2)}\u202f%` : `${point[1]}`;
    }
    plot.classList.add("reading");
  }

  function leave() {
    plot.classList.remove("reading");
    output.textContent = untouched;
    for (const row of rows) row.value.textContent = row.untouched;
    at = null;
  }

  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    show(first + ((x - left) / (right - left)) * (last - first));
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    show(at === null ? last : at + (by * (last - first)) / 50);
  });
}

