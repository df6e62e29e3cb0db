// Reads values off a curve: the point nearest in steps to the pointer, or the next one with the arrow keys.
function readable(plot) {
  const [left, right, top, bottom] = plot.dataset.area.split(" ").map(Number);
  const [first, last, high, low] = plot.dataset.domain.split(" ").map(Number);
  const svg = plot.querySelector("svg");
  const [rule, spot] = [plot.querySelector(".rule"), plot.querySelector(".spot")];
  const output = plot.closest("figure").querySelector("output");
  const untouched = [...output.childNodes];
  let points = null;
  let place = -1;

  function load() {
    points ??= plot.dataset.points.split(";").map((point) => {
      const [step, epoch, value] = point.split(",");
      return { step: Number(step), epoch, value: Number(value) };
    });
  }

  function show(next) {
    place = Math.max(0, Math.min(points.length - 1, next));
    const { step, epoch, value } = points[place];
    const x = left + ((step - first) / (last - first)) * (right - left);
    const y = top + ((high - value) / (high - low)) * (bottom - top);
    for (const [name, at] of [["x1", x], ["x2", x], ["y1", top], ["y2", bottom]]) rule.setAttribute(name, at);
    spot.setAttribute("cx", x);
    spot.setAttribute("cy", y);
    const number = document.createElement("b");
    number.textContent = plot.dataset.percent === "true" ? `${(100 * value).toFixed(2)}\u202f%` : `${value}`;
    const where = epoch === "" ? "" : `, epoch ${epoch}`;
    output.replaceChildren(`step ${step.toLocaleString("en")}${where}  `, number);
    plot.classList.add("reading");
  }

  function nearest(step) {
    let [low, high] = [0, points.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle].step < step) low = middle; else high = middle;
    }
    return step - points[low].step <= points[high].step - step ? low : high;
  }

  function leave() {
    plot.classList.remove("reading");
    output.replaceChildren(...untouched);
    place = -1;
  }

  plot.addEventListener("pointermove", (event) => {
    load();
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    show(nearest(first + ((x - left) / (right - left)) * (last - first)));
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    load();
    show(place < 0 ? points.length - 1 : place + by);
  });
}

for (const plot of document.querySelectorAll(".plot[data-points]")) readable(plot);
for (const plot of document.querySelectorAll(".plot[data-over]")) readableTogether(plot);

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
