// Small pictures of the images, many on a sheet. A sheet is decoded when one of its pictures is wanted, and those not
// wanted for longest are let go.

const { side, columns, per_sheet: perSheet } = about.pictures;
const sheetTexts = document.querySelectorAll("script.sheet");
const MOST_PIXELS = 40e6;
const sheets = new Map();
const waiting = new Map();
let whenDecoded = () => {};

function sheetOf(number) {
  const known = sheets.get(number);
  if (known) {
    // The last used stand last.
    sheets.delete(number);
    sheets.set(number, known);
    return known;
  }
  if (!waiting.has(number)) {
    const blob = new Blob([bytes(sheetTexts[number].textContent)], { type: "image/jpeg" });
    const decoded = createImageBitmap(blob).then((bitmap) => {
      sheets.set(number, bitmap);
      waiting.delete(number);
      let pixels = 0;
      for (const sheet of sheets.values()) pixels += sheet.width * sheet.height;
      for (const [old, sheet] of sheets) {
        if (pixels <= MOST_PIXELS || sheets.size < 3) break;
        pixels -= sheet.width * sheet.height;
        sheet.close();
        sheets.delete(old);
      }
      whenDecoded();
      return number;
    });
    waiting.set(number, decoded);
  }
  return null;
}

// Draws the picture of a point, if its sheet is there.
function drawPicture(context, point, x, y, size) {
  const slot = slots[point];
  const sheet = sheetOf(Math.floor(slot / perSheet));
  if (!sheet) return false;
  const place = slot % perSheet;
  context.drawImage(sheet, (place % columns) * side, Math.floor(place / columns) * side, side, side, x, y, size, size);
  return true;
}

// The same on a canvas of its own, now or as soon as it can be.
function fillPicture(canvas, point) {
  const context = canvas.getContext("2d");
  canvas.dataset.point = point;
  context.imageSmoothingEnabled = canvas.width < 2 * side;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (drawPicture(context, point, 0, 0, canvas.width)) return;
  waiting.get(Math.floor(slots[point] / perSheet)).then(() => {
    // Its sheet may be gone again.
    if (Number(canvas.dataset.point) === point) fillPicture(canvas, point);
  });
}

// Pictures of a list are drawn when they come into view, so that a long list does not ask for every sheet.
const lazily = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    lazily.unobserve(target);
    fillPicture(target, Number(target.dataset.wanted));
  }
});
