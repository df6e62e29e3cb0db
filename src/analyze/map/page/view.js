// The canvas: points are written into an image by hand, pictures and rings are drawn over it.

const canvas = element("map");
const context = canvas.getContext("2d", { alpha: false });
const still = matchMedia("(prefers-reduced-motion: reduce)");
const MARGIN = 16;
const CLOSEST = 4000;
const FEW = 400;

const state = {
  map: 0, colouring: 0, palette: 0, pictures: "auto",
  x: 0, y: 0, zoom: 1,
  matches: null, matched: 0, chosen: -1, neighbours: [], hovered: -1,
};
const frames = [];
let width = 0, height = 0, density = 1, image = null, pixels = null;
let places = maps[0], journey = null, flight = null, pending = 0, pictured = [];

// Device pixels for a unit of the map.
const scale = () => Math.min(width, height) / 2 * 0.94 * state.zoom;
const toScreen = (x, y) => [(x - state.x) * scale() + width / 2, (y - state.y) * scale() + height / 2];
const toMap = (x, y) => [(x - width / 2) / scale() + state.x, (y - height / 2) / scale() + state.y];
const inView = (margin) => [...toMap(-margin, -margin), ...toMap(width + margin, height + margin)];

function color(name) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = name;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
}

const css = (number) => `rgb(${number & 255} ${number >> 8 & 255} ${number >> 16 & 255})`;
const colors = { back: 0, ink: 0, dim: 0, groups: [] };

function recolor() {
  // light-dark() is resolved by the style engine alone.
  const style = (name) => {
    const probe = document.createElement("i");
    probe.style.color = name.startsWith("--") ? `var(${name})` : name;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return color(found);
  };
  colors.back = style("--card");
  colors.ink = style("--ink");
  colors.dim = style("--edge");
  const colouring = colourings[state.colouring];
  colors.groups = colouring.colors[state.palette].map((hex) => {
    const value = parseInt(hex.slice(1), 16);
    return (255 << 24 | (value & 255) << 16 | (value >> 8 & 255) << 8 | value >> 16) >>> 0;
  });
  colors.groups.push(style("--quiet"));
  redraw();
}

function resize() {
  density = Math.min(devicePixelRatio || 1, 2);
  const box = canvas.getBoundingClientRect();
  width = Math.max(1, Math.round(box.width * density));
  height = Math.max(1, Math.round(box.height * density));
  [canvas.width, canvas.height] = [width, height];
  image = new ImageData(width + 2 * MARGIN, height + 2 * MARGIN);
  pixels = new Uint32Array(image.data.buffer);
  redraw();
}

function redraw() {
  if (!pending) pending = requestAnimationFrame((now) => {
    pending = 0;
    draw(now);
  });
}

// A disc as offsets into the image and coverage out of 256.
const discs = new Map();
function disc(radius, stride) {
  const key = `${Math.round(radius * 8)} ${stride}`;
  if (!discs.has(key)) {
    const [offsets, cover] = [[], []];
    const reach = Math.ceil(radius + 0.5);
    for (let y = -reach; y <= reach; y++) {
      for (let x = -reach; x <= reach; x++) {
        const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
        if (share > 0.02) {
          offsets.push(y * stride + x);
          cover.push(Math.round(share * 256));
        }
      }
    }
    discs.set(key, { offsets: Int32Array.from(offsets), cover: Uint16Array.from(cover) });
  }
  return discs.get(key);
}

// Blends a disc into an image. No destructuring here: this runs for every point of every picture.
function stamp(buffer, form, at, ink) {
  const offsets = form.offsets;
  const cover = form.cover;
  const redBlue = ink & 0xff00ff;
  const green = ink & 0xff00;
  for (let k = 0; k < offsets.length; k++) {
    const to = at + offsets[k];
    const over = cover[k];
    if (over === 256) {
      buffer[to] = ink;
    } else {
      const below = buffer[to];
      const under = 256 - over;
      const mixed = (Math.imul(below & 0xff00ff, under) + Math.imul(redBlue, over)) >>> 8 & 0xff00ff;
      const middle = (Math.imul(below & 0xff00, under) + Math.imul(green, over)) >>> 8 & 0xff00;
      buffer[to] = 0xff000000 | mixed | middle;
    }
  }
}

const visible = (point) => colourings[state.colouring].shown[colourings[state.colouring].slot[point]];

// Points in view in drawing order: their list, and how many of it count.
const listed = new Uint32Array(count);
function pointsInView(margin) {
  const window = inView(margin);
  const [left, top, right, bottom] = window;
  if (journey || (left <= -1 && top <= -1 && right >= 1 && bottom >= 1)) return [drawn, count];
  let found = 0;
  eachWithin(places, window, (point) => { listed[found++] = point; });
  return [listed, found];
}

const pointRadius = () => {
  const room = Math.sqrt(width * height / count) * Math.sqrt(Math.min(state.zoom, 30));
  return Math.min(5 * density, Math.max(1.15 * density, 0.27 * room));
};

function drawPoints() {
  pixels.fill(colors.back);
  const buffer = pixels;
  const stride = width + 2 * MARGIN;
  const lowest = height + 2 * MARGIN - 8;
  const radius = pointRadius();
  const size = scale();
  // Whole pixels, so that points do not tremble against one another while the map moves.
  const shiftX = Math.round(width / 2 - state.x * size) + MARGIN;
  const shiftY = Math.round(height / 2 - state.y * size) + MARGIN;
  const { x, y } = places;
  const { matches } = state;
  const { slot, shown } = colourings[state.colouring];
  const inks = Uint32Array.from(colors.groups);
  const [points, found] = pointsInView(MARGIN);
  const pass = (form, onlyMatches) => {
    for (let at = 0; at < found; at++) {
      const point = points[at];
      const group = slot[point];
      const matching = matches === null || matches[point] === 1;
      if (!shown[group] || (onlyMatches && !matching)) continue;
      const column = Math.round(x[point] * size) + shiftX;
      const row = Math.round(y[point] * size) + shiftY;
      if (column < 8 || row < 8 || column >= stride - 8 || row >= lowest) continue;
      stamp(buffer, form, row * stride + column, matching ? inks[group] : colors.dim);
    }
  };
  pass(disc(Math.min(radius, 6), stride), false);
  if (matches) pass(disc(Math.min(radius + 0.6 * density, 7), stride), true);
  context.putImageData(image, -MARGIN, -MARGIN);
}

// Side of a picture in device pixels and of the cell it lies in, in units of the map. Cells halve as the map comes closer,
// and in between pictures grow; what was seen stays seen, for the first in rank of a cell is the first of its quarter too.
function pictureSize() {
  const least = Math.max(24, 0.6 * side) * density;
  const step = 2 ** Math.ceil(Math.log2((least + 4 * density) / scale()));
  return { step, size: Math.round(Math.min(step * scale() - 4 * density, 2 * least)) };
}

// A picture in a frame of some colour.
function putPicture(point, size, frame, ink) {
  const at = toScreen(places.x[point], places.y[point]).map((value) => Math.round(value - size / 2));
  context.fillStyle = css(ink);
  context.fillRect(at[0] - frame, at[1] - frame, size + 2 * frame, size + 2 * frame);
  drawPicture(context, point, at[0], at[1], size);
  pictured.push([point, at[0], at[1], size]);
}

const groupColor = (point) => colors.groups[colourings[state.colouring].slot[point]];

// The pictures that have room: one for each cell of a grid that is fixed to the map, so that they stay while it moves.
function drawPictures() {
  pictured = [];
  if (state.pictures === "never" || journey || !about.pictures.sheets) return;
  const { step, size } = pictureSize();
  const [left, top, right, bottom] = inView(0);
  const [first, upper] = [Math.floor(left / step), Math.floor(top / step)];
  const across = Math.floor(right / step) - first + 1;
  const down = Math.floor(bottom / step) - upper + 1;
  const rare = (winners, of) => state.pictures === "auto" && of > FEW && winners < 0.08 * of;
  const everything = state.zoom <= 1 && !state.matches && colourings[state.colouring].shown.every(Boolean);
  if (everything && rare(across * down, count)) return;
  const best = new Int32Array(across * down).fill(-1);
  let candidates = 0;
  const { x, y } = places;
  const [points, found] = pointsInView(0);
  for (let at = 0; at < found; at++) {
    const point = points[at];
    const column = Math.floor(x[point] / step) - first;
    const row = Math.floor(y[point] / step) - upper;
    if (column < 0 || row < 0 || column >= across || row >= down || !visible(point)) continue;
    if (state.matches && !state.matches[point]) continue;
    candidates++;
    const cell = row * across + column;
    if (best[cell] < 0 || rank[point] < rank[best[cell]]) best[cell] = point;
  }
  const winners = best.filter((point) => point >= 0);
  if (rare(winners.length, candidates)) return;
  const frame = Math.max(1, Math.round(1.5 * density));
  context.imageSmoothingEnabled = size < 2 * side;
  for (const point of winners) putPicture(point, size, frame, groupColor(point));
}

function ring(point, radius, width, ink) {
  const [x, y] = toScreen(places.x[point], places.y[point]);
  for (const [line, color] of [[width + 2 * density, colors.back], [width, ink]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = line;
    context.strokeStyle = css(color);
    context.stroke();
  }
}

// The chosen image and its neighbours lie above all others, as pictures where there are any.
function drawChosen() {
  const from = toScreen(places.x[state.chosen], places.y[state.chosen]);
  context.lineWidth = density;
  context.strokeStyle = css(colors.ink);
  context.globalAlpha = 0.45;
  context.beginPath();
  for (const point of state.neighbours) {
    context.moveTo(...from);
    context.lineTo(...toScreen(places.x[point], places.y[point]));
  }
  context.stroke();
  context.globalAlpha = 1;
  const base = pointRadius();
  const asPictures = about.pictures.sheets && state.pictures !== "never" && !journey;
  const { size } = pictureSize();
  context.imageSmoothingEnabled = size < 2 * side;
  // The nearest uppermost.
  for (const point of [...state.neighbours].reverse()) {
    if (asPictures) putPicture(point, size, Math.round(2 * density), groupColor(point));
    else ring(point, base + 3 * density, 1.5 * density, colors.ink);
  }
  if (asPictures) putPicture(state.chosen, Math.round(size * 1.3), Math.round(3 * density), colors.ink);
  else ring(state.chosen, base + 6 * density, 3 * density, colors.ink);
  // What lies above is found first.
  pictured.reverse();
}

function drawMarks() {
  if (state.chosen >= 0) drawChosen();
  if (state.hovered >= 0) {
    const under = pictured.find(([point]) => point === state.hovered);
    if (under) {
      context.lineWidth = 3 * density;
      context.strokeStyle = css(colors.ink);
      context.strokeRect(under[1] - density, under[2] - density, under[3] + 2 * density, under[3] + 2 * density);
    } else {
      ring(state.hovered, pointRadius() + 4 * density, 2 * density, colors.ink);
    }
  }
  if (canvas.matches(":focus-visible")) {
    const reach = 8 * density;
    context.lineWidth = density;
    context.strokeStyle = css(colors.ink);
    context.beginPath();
    context.moveTo(width / 2 - reach, height / 2);
    context.lineTo(width / 2 + reach, height / 2);
    context.moveTo(width / 2, height / 2 - reach);
    context.lineTo(width / 2, height / 2 + reach);
    context.stroke();
  }
}

const ease = (share) => share < 0.5 ? 4 * share ** 3 : 1 - (2 - 2 * share) ** 3 / 2;

// From one map to another.
function step(now) {
  if (flight) {
    const share = Math.min(1, (now - flight.begun) / 300);
    for (const key of ["x", "y"]) state[key] = flight.from[key] + (flight.to[key] - flight.from[key]) * ease(share);
    state.zoom = flight.from.zoom * (flight.to.zoom / flight.from.zoom) ** ease(share);
    if (share === 1) flight = null;
    redraw();
  }
  if (!journey) return;
  const share = Math.min(1, (now - journey.begun) / 800);
  const part = ease(share);
  const { from, to, x, y } = journey;
  for (let at = 0; at < count; at++) {
    x[at] = from.x[at] + (to.x[at] - from.x[at]) * part;
    y[at] = from.y[at] + (to.y[at] - from.y[at]) * part;
  }
  if (share === 1) {
    places = to;
    journey = null;
  }
  redraw();
}

function draw(now) {
  const begun = performance.now();
  step(now);
  drawPoints();
  drawPictures();
  drawMarks();
  frames.push(performance.now() - begun);
  if (frames.length > 600) frames.shift();
}

function goTo(map) {
  if (map === state.map) return;
  const from = { x: places.x.slice(), y: places.y.slice() };
  state.map = map;
  if (still.matches) {
    [places, journey] = [maps[map], null];
  } else {
    journey = { from, to: maps[map], x: from.x.slice(), y: from.y.slice(), begun: performance.now() };
    places = journey;
  }
  redraw();
}

function fly(x, y, zoom) {
  const to = { x, y, zoom: Math.min(CLOSEST, Math.max(0.5, zoom)) };
  if (still.matches) Object.assign(state, to);
  else flight = { from: { x: state.x, y: state.y, zoom: state.zoom }, to, begun: performance.now() };
  redraw();
}

function zoomAt(screenX, screenY, factor) {
  flight = null;
  const [x, y] = toMap(screenX, screenY);
  state.zoom = Math.min(CLOSEST, Math.max(0.5, state.zoom * factor));
  const [nowX, nowY] = toMap(screenX, screenY);
  state.x += x - nowX;
  state.y += y - nowY;
  redraw();
}

function pan(x, y) {
  flight = null;
  state.x = Math.min(1.2, Math.max(-1.2, state.x - x / scale()));
  state.y = Math.min(1.2, Math.max(-1.2, state.y - y / scale()));
  redraw();
}

// The point under a place on the screen: a picture that lies there, else the nearest within reach.
function pointAt(x, y, reach) {
  for (const [point, left, top, size] of pictured) {
    if (x >= left && y >= top && x < left + size && y < top + size) return point;
  }
  if (journey) return -1;
  let [best, least] = [-1, reach];
  const [left, top] = toMap(x - reach, y - reach);
  const [right, bottom] = toMap(x + reach, y + reach);
  eachWithin(places, [left, top, right, bottom], (point) => {
    if (!visible(point)) return;
    const [atX, atY] = toScreen(places.x[point], places.y[point]);
    const apart = Math.hypot(atX - x, atY - y);
    if (apart < least) [best, least] = [point, apart];
  });
  return best;
}
