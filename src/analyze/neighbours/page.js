"use strict";

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// One stop of the tab key for each network's row; arrow keys go on within the query, from row to row too.
for (const card of document.querySelectorAll(".card[data-right]")) {
  const rows = [...card.querySelectorAll(".tiles")].map((row) => [...row.querySelectorAll(".tile")]);
  const output = card.querySelector("output");
  const tell = (tile) => {
    output.textContent = tile.dataset.tells;
    for (const other of card.querySelectorAll(".tile")) {
      other.classList.toggle("twin", other !== tile && other.dataset.index === tile.dataset.index);
    }
  };
  const leave = () => {
    output.textContent = "";
    for (const other of card.querySelectorAll(".twin")) other.classList.remove("twin");
  };
  rows.forEach((tiles, row) => {
    tiles.forEach((tile, place) => {
      tile.tabIndex = place === 0 ? 0 : -1;
      tile.addEventListener("focus", () => {
        for (const other of tiles) other.tabIndex = other === tile ? 0 : -1;
        tell(tile);
      });
      tile.addEventListener("blur", leave);
      tile.addEventListener("pointerenter", () => tell(tile));
      tile.addEventListener("pointerleave", leave);
      tile.addEventListener("keydown", (event) => {
        const to = {
          ArrowRight: () => tiles[place + 1],
          ArrowLeft: () => tiles[place - 1],
          Home: () => tiles[0],
          End: () => tiles[tiles.length - 1],
          ArrowDown: () => rows[row + 1]?.[place],
          ArrowUp: () => rows[row - 1]?.[place],
        }[event.key];
        if (!to) return;
        event.preventDefault();
        to()?.focus();
      });
    });
  });
}

// Queries as they were chosen, or those first of which a network finds fewest of their class.
const order = document.getElementById("order");
order?.addEventListener("change", () => {
  const list = document.getElementById("queries");
  const cards = [...list.querySelectorAll(".card[data-right]")];
  const key = (card) => {
    const chosen = Number(card.dataset.number);
    return order.value === "chosen" ? [chosen, 0] : [Number(card.dataset.right.split(" ")[Number(order.value)]), chosen];
  };
  cards.sort((a, b) => key(a)[0] - key(b)[0] || key(a)[1] - key(b)[1]);
  list.append(...cards);
});
