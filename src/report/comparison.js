
// Reads every run's value off a picture: at the pointer, or a fiftieth of the width further with the arrow keys.
function readable(plot) {
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
      // A run that ended before this place has no value here.
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

for (const plot of document.querySelectorAll(".plot")) readable(plot);

for (const box of document.querySelectorAll("input[data-run]")) {
  const show = () => {
    for (const part of document.querySelectorAll(`.r${box.dataset.run}`)) part.classList.toggle("off", !box.checked);
  };
  box.addEventListener("change", show);
  // A browser that remembers ticks over a reload shows what they say.
  show();
}
