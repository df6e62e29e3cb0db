
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.querySelector(".choices");
  const canvas = document.getElementById("picture");
  const context = canvas.getContext("2d");
  const side = data.side;
  let only = null;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  for (const map of data.maps) map.labels = bytes(map.labels);
  const pictures = data.images.map(() => null);

  // The arithmetic is that of the figures, so that page and figures are equal to the byte.
  const taps = (from, to, vertical) => Array.from({ length: to }, (_, at) => {
    const place = Math.fround((at + 0.5) * (from / to) - 0.5);
    const first = Math.floor(place);
    let share = Math.fround(place - first);
    if (!vertical && (first < 0 || first + 1 >= from)) share = 0;
    const inside = (at) => Math.min(Math.max(at, 0), from - 1);
    const even = (value) => { const below = Math.floor(value), over = value - below; return over > 0.5 || (over === 0.5 && below % 2 === 1) ? below + 1 : below; };
    return [inside(first), inside(first + 1), even(Math.fround(Math.fround(1 - share) * 2048)), even(Math.fround(share * 2048))];
  });

  const bilinear = (colors, width, height) => {
    const out = new Uint8ClampedArray(3 * side * side);
    const columns = taps(width, side, false);
    const line = (row) => {
      const found = new Int32Array(3 * side);
      for (let x = 0; x < side; x++) {
        const [a, b, left, right] = columns[x];
        for (let c = 0; c < 3; c++) found[3 * x + c] = left * colors[3 * (row * width + a) + c] + right * colors[3 * (row * width + b) + c];
      }
      return found;
    };
    const lines = Array.from({ length: height }, (_, row) => line(row));
    taps(height, side, true).forEach(([a, b, upper, lower], y) => {
      for (let i = 0; i < 3 * side; i++) {
        out[3 * side * y + i] = (((upper * (lines[a][i] >> 4)) >> 16) + ((lower * (lines[b][i] >> 4)) >> 16) + 2) >> 2;
      }
    });
    return out;
  };

  const nearest = (colors, width, height) => {
    const out = new Uint8ClampedArray(3 * side * side);
    const sources = (from) => Array.from({ length: side }, (_, at) => Math.min(Math.floor(at * (1 / (side / from))), from - 1));
    const columns = sources(width);
    sources(height).forEach((row, y) => columns.forEach((column, x) => {
      for (let c = 0; c < 3; c++) out[3 * (y * side + x) + c] = colors[3 * (row * width + column) + c];
    }));
    return out;
  };

  const chosen = () => {
    const values = Object.fromEntries(new FormData(form));
    // Block groups are disabled while raw pixels are shown, and what is disabled is no data of a form.
    const block = form.querySelector('input[name="block"]:checked')?.value;
    return { ...values, block, image: Number(values.image), model: Number(values.model), k: Number(values.k) };
  };

  const load = (at) => new Promise((done) => {
    if (pictures[at]) { done(pictures[at]); return; }
    const image = new Image();
    image.onload = () => {
      const away = document.createElement("canvas");
      away.width = away.height = side;
      const to = away.getContext("2d");
      to.drawImage(image, 0, 0, side, side);
      pictures[at] = to.getImageData(0, 0, side, side).data;
      done(pictures[at]);
    };
    image.src = data.images[at].uri;
  });

  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

  const listed = (labels, map) => {
    const counts = Array(map.k).fill(0);
    for (const label of labels) counts[label]++;
    const list = document.getElementById("clusters");
    const focused = document.activeElement?.dataset?.cluster;
    list.replaceChildren(...counts.map((count, at) => {
      const entry = document.createElement("li");
      const button = document.createElement("button");
      const { name, rgb } = data.colors[at];
      button.type = "button";
      button.dataset.cluster = at;
      button.setAttribute("aria-pressed", only === at);
      button.innerHTML = '<svg viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1"/></svg><span></span><b></b>';
      button.querySelector("rect").setAttribute("fill", `rgb(${rgb.join(",")})`);
      button.querySelector("span").textContent = `${at + 1}, ${name}`;
      const images = data.together ? `, in ${percent(map.shares[at])} of the images` : "";
      button.querySelector("b").textContent = `${percent(count / labels.length)}${images}`;
      button.addEventListener("click", () => { only = only === at ? null : at; show(); });
      entry.append(button);
      return entry;
    }));
    if (focused !== undefined) list.querySelector(`[data-cluster="${focused}"]`)?.focus();
    return counts.map((count) => count / labels.length);
  };

  const numbers = (map) => {
    const rows = [
      ["Size of the map", `${map.width} × ${map.height}`],
      ["Inertia", map.inertia.toPrecision(5)],
      ["Silhouette", map.silhouette?.toFixed(3)],
      ["Stability (ARI over seeds)", map.stability?.toFixed(3)],
      ["Purity against the true parts", map.purity?.toFixed(3)],
      ["IoU with the true parts", map.iou?.toFixed(3)],
    ];
    document.getElementById("numbers").replaceChildren(...rows.filter(([, value]) => value !== undefined).map(([name, value]) => {
      const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
      head.scope = "row";
      head.textContent = name;
      cell.textContent = value;
      row.append(head, cell);
      return row;
    }));
  };

  // A row for each number of clusters; the bar is as long as the share.
  const elbow = (map) => {
    const same = data.maps.filter((other) => other.model === map.model && other.block === map.block
      && other.algorithm === map.algorithm && other.scope === map.scope);
    const place = document.getElementById("elbow");
    place.hidden = same.length < 2;
    place.querySelector("tbody").replaceChildren(...same.map((other) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = other.k;
      const left = document.createElement("td"), silhouette = document.createElement("td");
      const share = other.spread > 0 ? other.inertia / other.spread : 0;
      left.innerHTML = '<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect height="4"/></svg><span></span>';
      left.querySelector("rect").setAttribute("width", 100 * Math.min(share, 1));
      left.querySelector("span").textContent = share.toFixed(3);
      silhouette.textContent = other.silhouette?.toFixed(3) ?? "–";
      if (other === map) row.setAttribute("aria-current", "true");
      row.append(head, left, silhouette);
      return row;
    }));
  };

  const show = async () => {
    const { image, model, block, algorithm, k, show, enlarge } = chosen();
    const blocks = document.getElementById("of-block");
    const raw = data.maps.some((map) => map.model === model && map.block === null);
    if (blocks) blocks.disabled = raw;
    const map = data.maps.find((map) => map.model === model && map.k === k && map.algorithm === algorithm
      && (raw || map.block === Number(block)) && (map.scope === null || map.scope === image));
    const picture = await load(image);
    if (!map || chosen().image !== image) return;
    const pixels = map.width * map.height;
    const from = map.scope === null ? image * pixels : 0;
    const labels = map.labels.subarray(from, from + pixels);
    if (only !== null && only >= k) only = null;
    const colors = new Uint8Array(3 * pixels);
    labels.forEach((label, at) => {
      if (only === null || only === label) colors.set(data.colors[label].rgb, 3 * at);
    });
    const mask = enlarge === "nearest" ? nearest(colors, map.width, map.height) : bilinear(colors, map.width, map.height);
    const out = context.createImageData(side, side);
    for (let at = 0; at < side * side; at++) {
      let [red, green, blue] = [picture[4 * at], picture[4 * at + 1], picture[4 * at + 2]];
      for (let c = 0; c < 3; c++) {
        const color = mask[3 * at + c];
        if (show === "input") out.data[4 * at + c] = picture[4 * at + c];
        else if (show === "mask") out.data[4 * at + c] = color;
        else {
          const [first, last] = data.swapped ? [blue, red] : [red, blue];
          const grey = (9798 * first + 19235 * green + 3735 * last + 16384) >> 15;
          out.data[4 * at + c] = Math.round(data.weight * grey + data.weight * color);
        }
      }
      out.data[4 * at + 3] = 255;
    }
    context.putImageData(out, 0, 0);
    const shares = listed(labels, map);
    numbers(map);
    elbow(map);
    const layer = map.block === null ? "" : `, block group ${map.block}`;
    const title = document.querySelector(`input[name="algorithm"][value="${algorithm}"] + span`).textContent;
    const words = `${data.images[image].name}: ${data.models[model]}${layer}, ${title}, ${k} cluster${k === 1 ? "" : "s"}`;
    document.getElementById("caption").textContent = words;
    const parts = shares.map((share, at) => `${at + 1} ${data.colors[at].name} ${percent(share)}`);
    canvas.setAttribute("aria-label", `${words}. ${parts.join(", ")}`);
  };

  document.querySelector(`input[name="enlarge"][value="${data.enlarge}"]`).checked = true;
  const most = form.querySelectorAll('input[name="k"]');
  most[most.length - 1].checked = true;
  form.addEventListener("change", show);
  show();
})();
