"use strict";

// -- the picture

(() => {
  if (!document.getElementById("details")) return;
  const pictures = [...document.querySelectorAll(".picture")];
  const panel = document.getElementById("details");
  const search = document.getElementById("search");
  const hits = document.getElementById("hits");
  const known = JSON.parse(document.getElementById("nodes").textContent);
  const nodes = [...document.querySelectorAll(".node")];
  const edges = [...document.querySelectorAll(".edge")];
  let chosen = null;

  const numberOf = (node) => Number(node.dataset.node);

  // -- neighbours

  const uses = known.map(() => new Set());
  const usedBy = known.map(() => new Set());
  for (const edge of edges) {
    uses[edge.dataset.from].add(Number(edge.dataset.to));
    usedBy[edge.dataset.to].add(Number(edge.dataset.from));
  }

  function show(near, touches) {
    for (const picture of pictures) picture.classList.toggle("focus", near !== null);
    for (const node of nodes) node.classList.toggle("near", near !== null && near.has(numberOf(node)));
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
    for (const node of nodes) node.classList.toggle("chosen", numberOf(node) === number);
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

  for (const node of nodes) {
    const number = numberOf(node);
    node.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") highlight(number); });
    node.addEventListener("pointerleave", settle);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(number); }
    });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });

  // -- zoom and move

  function explore(picture) {
    const box = picture.viewBox.baseVal;
    const full = { x: box.x, y: box.y, width: box.width, height: box.height };
    let view = { ...full };

    function look(next) {
      view = next;
      picture.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
      picture.style.touchAction = view.width < full.width * 0.99 ? "none" : "pan-y";
    }

    function zoom(factor, x, y) {
      const width = Math.min(Math.max(view.width * factor, full.width / 40, 60), full.width * 2);
      const scale = width / view.width;
      look({
        x: x - (x - view.x) * scale, y: y - (y - view.y) * scale,
        width, height: view.height * scale,
      });
    }

    function place(clientX, clientY) {
      const at = new DOMPoint(clientX, clientY).matrixTransform(picture.getScreenCTM().inverse());
      return [at.x, at.y];
    }

    picture.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(Math.exp(event.deltaY * 0.0025), ...place(event.clientX, event.clientY));
    }, { passive: false });

    const pointers = new Map();
    let moved = 0;
    picture.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, event);
      if (pointers.size === 1) moved = 0;
    });
    picture.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      if (pointers.size === 1) {
        moved += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
        if (moved > 4) {
          if (!picture.hasPointerCapture(event.pointerId)) picture.setPointerCapture(event.pointerId);
          picture.classList.add("moving");
          const [x, y] = place(event.clientX, event.clientY);
          const [oldX, oldY] = place(before.clientX, before.clientY);
          look({ ...view, x: view.x + oldX - x, y: view.y + oldY - y });
        }
      } else {
        moved = 99;
        const [other] = [...pointers.values()].filter((p) => p.pointerId !== event.pointerId);
        const distance = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY) || 1;
        zoom(distance(before) / distance(event), ...place(other.clientX, other.clientY));
      }
      pointers.set(event.pointerId, event);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      picture.addEventListener(name, (event) => {
        pointers.delete(event.pointerId);
        if (!pointers.size) picture.classList.remove("moving");
      });
    }
    picture.addEventListener("click", (event) => {
      if (moved > 4) return;
      const node = event.target.closest(".node");
      choose(node ? Number(node.dataset.node) : null);
    });

    return {
      fit: () => look({ ...full }),
      zoomBy: (factor) => zoom(factor, view.x + view.width / 2, view.y + view.height / 2),
      reveal(number) {
        const node = picture.querySelector(`[data-node="${number}"]`);
        const at = node.transform.baseVal[0].matrix;
        const size = node.querySelector("rect");
        const width = Math.min(full.width, Math.max(620, size.width.baseVal.value * 2));
        const height = width * full.height / full.width;
        const x = at.e + size.width.baseVal.value / 2, y = at.f + size.height.baseVal.value / 2;
        look({ x: x - width / 2, y: y - height / 2, width, height });
      },
    };
  }

  const views = pictures.map(explore);
  function reveal(number) { for (const view of views) view.reveal(number); }
  for (const [id, act] of [
    ["in", (view) => view.zoomBy(0.7)], ["out", (view) => view.zoomBy(1 / 0.7)], ["fit", (view) => view.fit()],
  ]) document.getElementById(id).addEventListener("click", () => views.forEach(act));

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
