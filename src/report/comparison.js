for (const plot of document.querySelectorAll(".plot[data-over]")) readableTogether(plot);

for (const box of document.querySelectorAll("input[data-run]")) {
  const show = () => {
    for (const part of document.querySelectorAll(`.r${box.dataset.run}`)) part.classList.toggle("off", !box.checked);
  };
  box.addEventListener("change", show);
  // A browser that remembers ticks over a reload shows what they say.
  show();
}
