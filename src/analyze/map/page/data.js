"use strict";

// What the page carries: a description in JSON, arrays as base64 in little-endian order, pictures in sheets.

const element = (id) => document.getElementById(id);
const text = (id) => element(id).textContent;

function bytes(base64) {
  const plain = atob(base64);
  const out = new Uint8Array(plain.length);
  for (let at = 0; at < plain.length; at++) out[at] = plain.charCodeAt(at);
  return out;
}

const array = (id, Kind) => new Kind(bytes(text(id)).buffer);

const about = JSON.parse(text("about"));
const count = about.count;
const Rows = about.wide_rows ? Uint32Array : Uint16Array;
const NONE = 65535;

// Each line is the length of what it shares with the one before it, then the rest.
const paths = (() => {
  let last = "";
  return JSON.parse(text("paths")).map((line) => {
    const bar = line.indexOf("|");
    last = last.slice(0, Number(line.slice(0, bar))) + line.slice(bar + 1);
    return last;
  });
})();

// Places between -1 and 1, the vertical axis upwards; the aspect ratio is kept.
const maps = about.maps.map((map, index) => {
  const raw = array(`places-${index}`, Float32Array);
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let at = 0; at < raw.length; at += 2) {
    left = Math.min(left, raw[at]);
    right = Math.max(right, raw[at]);
    low = Math.min(low, raw[at + 1]);
    high = Math.max(high, raw[at + 1]);
  }
  const half = Math.max(right - left, high - low) / 2 || 1;
  const [x, y] = [new Float32Array(count), new Float32Array(count)];
  for (let at = 0; at < count; at++) {
    x[at] = (raw[2 * at] - (left + right) / 2) / half;
    y[at] = ((low + high) / 2 - raw[2 * at + 1]) / half;
  }
  return { ...map, raw, x, y, grid: null };
});

const colourings = about.colourings.map((colouring, index) => {
  const of = array(`groups-${index}`, Uint16Array);
  // Those without a group come last.
  const slot = of.map((group) => (group === NONE ? colouring.groups.length : group));
  const sizes = new Array(colouring.groups.length + 1).fill(0);
  for (const group of slot) sizes[group]++;
  return { ...colouring, of, slot, sizes, shown: new Array(sizes.length).fill(true) };
});

const near = about.neighbours ? array("near", Rows) : null;
const slots = array("slots", Rows);

// An order without relation to classes or files, so that no class always lies on top.
const rank = new Uint32Array(count);
const drawn = (() => {
  const order = new Uint32Array(count);
  for (let at = 0; at < count; at++) order[at] = at;
  let state = 0x9e3779b9;
  for (let at = count - 1; at > 0; at--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = (state >>> 0) % (at + 1);
    [order[at], order[other]] = [order[other], order[at]];
  }
  order.forEach((point, place) => { rank[point] = place; });
  return order;
})();

// Points by cells of a square grid, in drawing order within each: what is near a place, and what is in view.
const CELLS = 128;
const cell = (at) => Math.min(CELLS - 1, Math.max(0, Math.floor((at + 1) / 2 * CELLS)));

function gridded(x, y) {
  const starts = new Uint32Array(CELLS * CELLS + 1);
  const of = new Uint16Array(count);
  for (let at = 0; at < count; at++) {
    of[at] = cell(y[at]) * CELLS + cell(x[at]);
    starts[of[at] + 1]++;
  }
  for (let at = 0; at < CELLS * CELLS; at++) starts[at + 1] += starts[at];
  const next = starts.slice();
  const points = new Uint32Array(count);
  for (const point of drawn) points[next[of[point]]++] = point;
  return { starts, points };
}

function eachWithin(map, [left, top, right, bottom], visit) {
  map.grid ??= gridded(map.x, map.y);
  const [first, last] = [cell(left), cell(right)];
  for (let row = cell(top); row <= cell(bottom); row++) {
    const end = map.grid.starts[row * CELLS + last + 1];
    for (let at = map.grid.starts[row * CELLS + first]; at < end; at++) visit(map.grid.points[at]);
  }
}

const nameOf = (colouring, point) => {
  const group = colouring.of[point];
  return group === NONE ? `no ${colouring.name.toLowerCase()}` : colouring.groups[group];
};
