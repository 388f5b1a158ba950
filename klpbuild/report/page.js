"use strict";

// -- the picture

(() => {
  if (!document.getElementById("details")) return;
  const picture = document.querySelector(".picture");
  const panel = document.getElementById("details");
  const search = document.getElementById("search");
  const hits = document.getElementById("hits");
  const known = JSON.parse(document.getElementById("nodes").textContent);
  const nodes = [...picture.querySelectorAll(".node")];
  const edges = [...picture.querySelectorAll(".edge")];
  let chosen = null;

  // -- edges: curves between the names, wherever the browser has put them

  // In a frame with several names in a row an edge ends at the frame: it would lead through others.
  function end(node, other) {
    const frame = node.parentElement;
    const inside = frame.contains(other) || getComputedStyle(frame).flexWrap === "nowrap";
    return (inside ? node : frame).getBoundingClientRect();
  }

  function curve(from, to) {
    const [a, b] = [end(from, to), end(to, from)];
    const [name, other] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
    const origin = picture.querySelector(".edges").getBoundingClientRect();
    let [x, y] = [(name.left + name.right) / 2, (name.top + name.bottom) / 2];
    let [endX, endY] = [(other.left + other.right) / 2, (other.top + other.bottom) / 2];
    const pull = (distance) => Math.min(distance / 2, 160);
    let [pullX, pullY] = [0, 0];
    if (a.right <= b.left) [x, endX, pullX] = [a.right, b.left, pull(b.left - a.right)];
    else if (b.right <= a.left) [x, endX, pullX] = [a.left, b.right, -pull(a.left - b.right)];
    else if (a.bottom <= b.top) [y, endY, pullY] = [a.bottom, b.top, pull(b.top - a.bottom)];
    else [y, endY, pullY] = [a.top, b.bottom, -pull(a.top - b.bottom)];
    const points = [[x, y], [x + pullX, y + pullY], [endX - pullX, endY - pullY], [endX, endY]];
    const [start, ...rest] = points.map(([x, y]) => `${x - origin.left} ${y - origin.top}`);
    return `M${start}C${rest.join(" ")}`;
  }

  function connect() {
    for (const edge of edges) {
      edge.setAttribute("d", curve(nodes[edge.dataset.from], nodes[edge.dataset.to]));
    }
  }

  new ResizeObserver(connect).observe(picture);
  matchMedia("print").addEventListener("change", connect);

  // -- neighbours

  const uses = known.map(() => new Set());
  const usedBy = known.map(() => new Set());
  for (const edge of edges) {
    uses[edge.dataset.from].add(Number(edge.dataset.to));
    usedBy[edge.dataset.to].add(Number(edge.dataset.from));
  }

  function show(near, touches) {
    picture.classList.toggle("focus", near !== null);
    nodes.forEach((node, number) => node.classList.toggle("near", near !== null && near.has(number)));
    for (const edge of edges) {
      const ends = [Number(edge.dataset.from), Number(edge.dataset.to)];
      edge.classList.toggle("near", near !== null && touches(ends));
    }
  }

  function highlight(number) {
    const near = new Set([number, ...uses[number], ...usedBy[number]]);
    show(near, (ends) => ends.includes(number));
  }

  function settle() {
    if (chosen !== null) highlight(chosen);
    else find(false);
  }

  // -- details

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function list(title, numbers) {
    if (!numbers.size) return [];
    const items = element("ul");
    for (const number of numbers) {
      const button = element("button", known[number].label);
      button.type = "button";
      button.addEventListener("click", () => { choose(number); reveal(number); });
      const item = element("li");
      item.append(button);
      items.append(item);
    }
    return [element("h4", title), items];
  }

  function choose(number) {
    nodes.forEach((node, other) => node.classList.toggle("chosen", other === number));
    chosen = number;
    if (number === null) {
      panel.replaceChildren();
      settle();
      return;
    }
    const node = known[number];
    const facts = element("dl");
    for (const [word, text] of node.details) facts.append(element("dt", word), element("dd", text));
    const close = element("button", "×", "close");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", () => choose(null));
    panel.replaceChildren(
      close, element("h3", node.label), element("p", node.role, "role"), facts,
      ...list("Refers to", uses[number]), ...list("Referred to by", usedBy[number]));
    highlight(number);
  }

  function reveal(number) { nodes[number].scrollIntoView({ block: "center" }); }

  nodes.forEach((node, number) => {
    node.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") highlight(number); });
    node.addEventListener("pointerleave", settle);
  });
  picture.addEventListener("click", (event) => {
    const number = nodes.indexOf(event.target.closest(".node"));
    choose(number < 0 ? null : number);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });

  // -- search

  let found = [];
  let next = 0;

  function find(anew) {
    const text = search.value.trim().toLowerCase();
    found = text ? [...known.keys()].filter((n) => known[n].label.toLowerCase().includes(text)) : [];
    if (anew) next = 0;
    hits.textContent = text ? `${found.length} of ${known.length}` : "";
    show(text ? new Set(found) : null, () => false);
  }

  search.addEventListener("input", () => { if (chosen !== null) choose(null); find(true); });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !found.length) return;
    const number = found[next % found.length];
    next += 1;
    choose(number);
    reveal(number);
  });
})();

// -- diffs: words of C told apart, old and new side by side

(() => {
  const words = /\b(?:break|case|const|continue|default|do|else|enum|extern|for|goto|if|inline|return|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while|bool|char|int|long|short|signed|u8|u16|u32|u64|NULL)\b|"(?:[^"\\]|\\.)*"|\/\/.*|\/\*.*?(?:\*\/|$)/g;

  function colour(line) {
    if (line.className === "file" || line.className === "hunk") return;
    const text = line.textContent;
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(words)) {
      const name = match[0][0] === '"' ? "i" : match[0][0] === "/" ? "em" : "b";
      const part = document.createElement(name);
      part.textContent = match[0];
      parts.push(text.slice(end, match.index), part);
      end = match.index + match[0].length;
    }
    if (parts.length) line.replaceChildren(...parts, text.slice(end));
  }

  const diffs = [...document.querySelectorAll("pre.diff")];
  for (const diff of diffs) {
    if (!diff.classList.contains("machine")) for (const line of diff.children) colour(line);
  }

  const button = document.getElementById("sides");
  if (!button) return;

  function empty(className) {
    const line = document.createElement("span");
    line.className = className;
    line.textContent = " ";
    return line;
  }

  function split(diff) {
    const sides = document.createElement("div");
    const [old, now] = [document.createElement("div"), document.createElement("div")];
    sides.className = "diff sides";
    for (const [side, title] of [[old, "before"], [now, "after"]]) {
      side.tabIndex = 0;
      side.setAttribute("role", "region");
      side.setAttribute("aria-label", title);
    }
    const even = () => {
      while (old.childElementCount < now.childElementCount) old.append(empty("none"));
      while (now.childElementCount < old.childElementCount) now.append(empty("none"));
    };
    for (const line of diff.children) {
      if (line.className === "del") old.append(line.cloneNode(true));
      else if (line.className === "add") now.append(line.cloneNode(true));
      else {
        even();
        old.append(line.cloneNode(true));
        now.append(line.cloneNode(true));
      }
    }
    even();
    sides.append(old, now);
    return sides;
  }

  button.addEventListener("click", () => {
    const wanted = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(wanted));
    for (const diff of diffs) {
      diff.hidden = wanted;
      if (wanted) diff.after(split(diff));
      else diff.nextElementSibling.remove();
    }
  });
})();

// -- tables: sorted by a click on a heading, filtered by words

(() => {
  const tables = [...document.querySelectorAll("table.sortable")];
  for (const table of tables) {
    const [body] = table.tBodies;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].textContent;
        const rows = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }
  for (const filter of document.querySelectorAll("input.filter")) {
    const section = filter.closest("section");
    filter.addEventListener("input", () => {
      const text = filter.value.trim().toLowerCase();
      for (const table of section.querySelectorAll("table")) {
        let shown = 0;
        for (const row of table.tBodies[0].rows) {
          row.hidden = !row.textContent.toLowerCase().includes(text);
          shown += !row.hidden;
        }
        const fold = table.closest("details");
        if (fold && text) fold.open = shown > 0;
      }
    });
  }
})();
