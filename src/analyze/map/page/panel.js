// Beside the map: legend, search, the image that is chosen, and results as text that a keyboard and a voice can reach.

const LISTED = 60;
const grouped = (number) => number.toLocaleString("en");

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(line) {
  element("status").textContent = line;
}

const aboutPoint = (point) =>
  colourings.map((colouring) => `${colouring.name}: ${nameOf(colouring, point)}`).join("\n");

// What an image is called: its class, or its file where there are no classes.
const titleOf = (point) =>
  colourings[0].searched ? nameOf(colourings[0], point) : paths[point].slice(paths[point].lastIndexOf("/") + 1);

// Its path, where that is not what it is called.
const placeOf = (point) => (paths[point] === titleOf(point) ? "" : paths[point]);

function fillLegend() {
  const colouring = colourings[state.colouring];
  element("legend-title").textContent = colouring.name;
  const names = [...colouring.groups, `no ${colouring.name.toLowerCase()}`];
  element("legend").replaceChildren(...names.flatMap((name, group) => {
    if (!colouring.sizes[group]) return [];
    const box = make("input", { type: "checkbox", checked: colouring.shown[group] });
    box.addEventListener("change", () => {
      colouring.shown[group] = box.checked;
      redraw();
    });
    const spot = make("i", {});
    spot.style.background = css(colors.groups[group]);
    return [make("li", {}, make("label", {}, box, spot, make("span", { textContent: name }),
      make("small", { textContent: grouped(colouring.sizes[group]) })))];
  }));
}

function showAll(shown) {
  colourings[state.colouring].shown.fill(shown);
  fillLegend();
  redraw();
}

function list(points, heading, hint) {
  element("found").hidden = false;
  element("heading").textContent = heading;
  element("hint").textContent = hint;
  lazily.disconnect();
  element("results").replaceChildren(...points.slice(0, LISTED).map((point) => {
    const picture = make("canvas", { width: 2 * 36, height: 2 * 36, className: side < 72 ? "pixels" : "" });
    picture.style.width = picture.style.height = "36px";
    picture.setAttribute("aria-hidden", "true");
    picture.dataset.wanted = point;
    if (about.pictures.sheets) lazily.observe(picture);
    const button = make("button", { type: "button" }, picture,
      make("span", {}, titleOf(point), make("small", { textContent: placeOf(point) })));
    button.dataset.point = point;
    button.addEventListener("click", () => choose(point, true));
    return make("li", {}, button);
  }));
}

function search(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) {
    state.matches = null;
    state.matched = 0;
    if (state.chosen < 0) element("found").hidden = true;
    say("");
    redraw();
    return;
  }
  const classes = colourings.filter((colouring) => colouring.searched);
  const named = classes.map((colouring) => colouring.groups.map((name) => name.toLowerCase()));
  const matches = new Uint8Array(count);
  const found = [];
  for (let point = 0; point < count; point++) {
    const path = paths[point].toLowerCase();
    const names = classes.map((colouring, at) => named[at][colouring.of[point]] ?? "");
    if (words.every((word) => path.includes(word) || names.some((name) => name.includes(word)))) {
      matches[point] = 1;
      found.push(point);
    }
  }
  state.matches = matches;
  state.matched = found.length;
  release();
  const more = found.length > LISTED ? `The first ${LISTED} of them.` : "";
  const line = `${grouped(found.length)} of ${grouped(count)} images match “${query.trim()}”`;
  list(found, line, more);
  say(`${line}.`);
  redraw();
}

function release() {
  state.chosen = -1;
  state.neighbours = [];
  state.hovered = -1;
  element("chosen").hidden = true;
}

// Chooses an image and shows what is nearest to it in the features.
function choose(point, travel) {
  state.chosen = point;
  const k = near ? about.neighbours.k : 0;
  state.neighbours = near ? Array.from(near.subarray(point * k, (point + 1) * k)) : [];
  element("chosen").hidden = false;
  if (about.pictures.sheets) fillPicture(element("large"), point);
  else element("large").hidden = true;
  element("large").className = side < 128 ? "pixels" : "";
  element("name").textContent = titleOf(point);
  element("path").textContent = `${aboutPoint(point)}\n${placeOf(point)}`;
  if (k) {
    const [{ of, groups, searched }, own] = [colourings[0], colourings[0].of[point]];
    const same = state.neighbours.filter((other) => of[other] === own).length;
    const share = own === NONE || !searched ? "" : `, ${same} of them ${groups[own]}`;
    const line = `${k} nearest images${share}`;
    list(state.neighbours, line, about.neighbours.by);
    say(`Chosen: ${[titleOf(point), placeOf(point)].filter(Boolean).join(", ")}. ${line}.`);
  }
  const [x, y] = toScreen(places.x[point], places.y[point]);
  const outside = x < 0 || y < 0 || x > width || y > height;
  if (travel || outside) fly(maps[state.map].x[point], maps[state.map].y[point], Math.max(state.zoom, outside ? 1 : 6));
  redraw();
}

function letGo() {
  release();
  element("query").value = "";
  search("");
  element("found").hidden = true;
  redraw();
}

// What the pointer is on.
function hover(point, x, y) {
  const tip = element("tip");
  if (state.hovered !== point) {
    state.hovered = point;
    redraw();
    tip.hidden = point < 0;
    if (point >= 0) {
      const [picture, words] = tip.children;
      picture.hidden = !about.pictures.sheets;
      picture.className = side < 96 ? "pixels" : "";
      if (about.pictures.sheets) fillPicture(picture, point);
      words.textContent = `${aboutPoint(point)}\n${paths[point]}`;
    }
  }
  if (point < 0) return;
  const room = canvas.getBoundingClientRect();
  // Beside the picture on the map, not over it.
  const under = pictured.find(([other]) => other === point);
  const [first, last] = under ? [under[1] / density, (under[1] + under[3]) / density] : [x - 8, x + 8];
  const left = last + 8 + tip.offsetWidth > room.width ? first - 8 - tip.offsetWidth : last + 8;
  const top = Math.min(Math.max(4, y - tip.offsetHeight / 2), room.height - tip.offsetHeight - 4);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
