// What readers do, and the beginning.

const frame = canvas.parentElement;
const pointers = new Map();
let moved = 0;

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  if (pointers.size === 1) moved = 0;
  frame.classList.add("dragging");
  hover(-1);
});

canvas.addEventListener("pointermove", (event) => {
  const now = place(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") hover(pointAt(now[0] * density, now[1] * density, 9 * density), ...now);
    return;
  }
  pointers.set(event.pointerId, now);
  if (pointers.size === 1) {
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (moved > 4) pan((now[0] - before[0]) * density, (now[1] - before[1]) * density);
  } else if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    moved += 10;
    const apart = (a) => Math.max(1, Math.hypot(a[0] - other[0], a[1] - other[1]));
    const [middleX, middleY] = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    pan((now[0] - before[0]) / 2 * density, (now[1] - before[1]) / 2 * density);
    zoomAt(middleX * density, middleY * density, apart(now) / apart(before));
  }
});

function lift(event) {
  if (!pointers.delete(event.pointerId)) return;
  if (!pointers.size) frame.classList.remove("dragging");
  if (event.type !== "pointerup" || moved > 4 || pointers.size) return;
  const [x, y] = place(event);
  const reach = event.pointerType === "mouse" ? 9 : 18;
  const point = pointAt(x * density, y * density, reach * density);
  if (point >= 0) choose(point, false);
  else letGo();
}
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("pointerleave", () => hover(-1));

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  hover(-1);
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
  const [x, y] = place(event);
  zoomAt(x * density, y * density, Math.exp(-Math.max(-300, Math.min(300, pixels)) * (event.ctrlKey ? 0.01 : 0.0022)));
}, { passive: false });

const whole = () => fly(0, 0, 1);
const middle = (factor) => fly(state.x, state.y, (flight ? flight.to.zoom : state.zoom) * factor);

function ofNeighbours(ahead) {
  if (!state.neighbours.length) return;
  const buttons = [...element("results").querySelectorAll("button")];
  const at = buttons.findIndex((button) => button.hasAttribute("aria-current"));
  const next = (at < 0 && ahead < 0 ? 0 : at) + ahead;
  const button = buttons[(next + buttons.length) % buttons.length];
  buttons.forEach((other) => other.removeAttribute("aria-current"));
  button.setAttribute("aria-current", "true");
  button.scrollIntoView({ block: "nearest" });
  state.hovered = Number(button.dataset.point);
  say(`Neighbour: ${button.innerText.replace(/\s+/g, " ").trim()}`);
  redraw();
}

const KEYS = {
  ArrowLeft: () => pan(width / 10, 0),
  ArrowRight: () => pan(-width / 10, 0),
  ArrowUp: () => pan(0, height / 10),
  ArrowDown: () => pan(0, -height / 10),
  "+": () => middle(1.5),
  "=": () => middle(1.5),
  "-": () => middle(1 / 1.5),
  "0": whole,
  Home: whole,
  n: () => ofNeighbours(1),
  p: () => ofNeighbours(-1),
  Escape: letGo,
  Enter: () => {
    if (state.hovered >= 0) return choose(state.hovered, false);
    const point = pointAt(width / 2, height / 2, Math.hypot(width, height));
    if (point >= 0) choose(point, false);
  },
};
canvas.addEventListener("keydown", (event) => {
  const act = KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
canvas.addEventListener("focus", redraw);
canvas.addEventListener("blur", redraw);

element("in").addEventListener("click", () => middle(1.7));
element("out").addEventListener("click", () => middle(1 / 1.7));
element("fit").addEventListener("click", whole);
element("all").addEventListener("click", () => showAll(true));
element("none").addEventListener("click", () => showAll(false));

function tell() {
  const map = maps[state.map];
  element("numbers").textContent = [map.name, ...map.numbers].join(" · ");
}

function options(select, names, chosen) {
  element(select).replaceChildren(...names.map((name, value) => make("option", { value, textContent: name })));
  element(select).addEventListener("change", () => chosen(Number(element(select).value)));
}
options("colouring", colourings.map((colouring) => colouring.name.toLowerCase()), (value) => {
  state.colouring = value;
  recolor();
  fillLegend();
});
options("palette", about.palettes, (value) => {
  state.palette = value;
  recolor();
  fillLegend();
});
element("pictures").addEventListener("change", () => {
  state.pictures = element("pictures").value;
  redraw();
});
maps.forEach((map, index) => {
  const button = make("input", { type: "radio", name: "map", value: index, checked: index === 0 });
  button.addEventListener("change", () => {
    goTo(index);
    tell();
    say(`Now ${map.name}.`);
  });
  element("maps").append(make("label", {}, button, make("span", { textContent: map.name })));
});
element("maps").hidden = maps.length < 2;

let typing = 0;
element("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => search(element("query").value), 120);
});
element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  search(element("query").value);
});
element("clear").addEventListener("click", letGo);

element("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  recolor();
  fillLegend();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  recolor();
  fillLegend();
});

whenDecoded = redraw;
new ResizeObserver(resize).observe(frame);
resize();
recolor();
fillLegend();
tell();
if (!colourings[0].searched) {
  element("query").placeholder = "Path";
  element("query").setAttribute("aria-label", "Path");
}
element("pictures").disabled = !about.pictures.sheets;
element("wait").remove();

// For scripts that look at the page.
window.diptychMap = { state, frames, maps, paths, colourings, near, toScreen, choose, search, fly };
