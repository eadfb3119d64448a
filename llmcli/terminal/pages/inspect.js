  const data = read("data");
  const maps = new Map(read("maps").map(([layer, head, text]) => [`${layer}.${head}`, text]));
  const [start, end] = data.window;
  const count = end - start;
  const word = (id) => visible(data.vocabulary[id]);
  const token = (position) => word(data.tokens[position]);
  const nats = (value) => (value > 0 ? "+" : "") + value.toFixed(3);
  const color = (name, alpha) => `rgb(var(--${name}) / ${alpha.toFixed(3)})`;

  // -- the figures
  const from = data.provenance;
  heading(`Inside ${from.model}`, [
    from.precision, from.revision && `revision ${String(from.revision).slice(0, 12)}`,
    count < data.tokens.length &&
      `tokens ${start} to ${end - 1} of ${data.tokens.length} are shown`,
  ]);
  const seen = data.overview;
  figure("tokens", data.tokens.length.toLocaleString("en"));
  figure("layers", data.layers);
  figure("heads in each", data.heads);
  if (seen) {
    figure("next token", word(seen.prediction.id), percent(Math.exp(seen.prediction.logprob)));
    figure("settles", seen.settled < 0 ? "at the embedding" : `after layer ${seen.settled}`);
    const names = (heads) => heads.map((each) => `${each.layer}.${each.head}`).join(", ");
    figure("look at the token before", names(seen.previous));
    figure("look at the first token", names(seen.first));
    figure("look widest", names(seen.spread));
  }

  // -- attention
  const decoded = new Map();
  function matrix(name) {
    if (!decoded.has(name)) {
      const bytes = Uint8Array.from(atob(maps.get(name)), (c) => c.charCodeAt(0));
      decoded.set(name, new DataView(bytes.buffer));
      if (decoded.size > 16) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(name);
  }
  const noFirst = byId("nofirst");
  // Row `i` of a head; without the first token the rest is scaled to its share.
  function rowOf(view, i) {
    const row = new Float64Array(i + 1);
    const offset = (i * (i + 1)) / 2;
    for (let j = 0; j <= i; j++) row[j] = view.getUint16(2 * (offset + j), true) / 65535;
    if (noFirst.checked && start === 0) {
      const rest = 1 - row[0];
      row[0] = 0;
      for (let j = 1; j <= i; j++) row[j] = rest > 1e-4 ? Math.min(1, row[j] / rest) : 0;
    }
    return row;
  }
  const inkOf = () => getComputedStyle(document.documentElement)
    .getPropertyValue("--hot").trim().split(/\s+/).map(Number);
  const alphaOf = (weight) => Math.pow(weight, 0.65);

  function paint(context, view, size) {
    // Where cells are smaller than a point, a point shows the largest of them.
    const step = Math.max(1, Math.ceil(count / size));
    const side = Math.ceil(count / step);
    context.canvas.width = context.canvas.height = side;
    const image = context.createImageData(side, side);
    const [r, g, b] = inkOf();
    for (let i = 0; i < count; i++) {
      const row = rowOf(view, i);
      const y = Math.floor(i / step);
      for (let j = 0; j <= i; j++) {
        const at = 4 * (y * side + Math.floor(j / step));
        const alpha = Math.round(255 * alphaOf(row[j]));
        if (alpha > image.data[at + 3]) {
          image.data[at] = r; image.data[at + 1] = g; image.data[at + 2] = b;
          image.data[at + 3] = alpha;
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  let chosen = null;
  let query = count - 1;
  const thumbs = new Map();
  const chips = [];
  const large = byId("map");
  const summaries = new Map();
  let geometry = null;

  function drawLarge() {
    const view = matrix(chosen);
    const longest = Math.max(...chips.map((chip) => [...chip.textContent].length));
    const labelled = count <= 48;
    const margin = labelled ? Math.min(110, 8 + 7.3 * Math.min(longest, 14)) : 6;
    const room = clamp(large.parentElement.clientWidth - 1, 200, 560) - margin;
    const cell = Math.max(room / count, 1 / devicePixelRatio);
    const side = margin + cell * count;
    const ratio = devicePixelRatio || 1;
    large.width = large.height = Math.ceil(side * ratio);
    large.style.width = large.style.height = `${side}px`;
    const context = large.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink"), soft = style.getPropertyValue("--soft");
    const hot = inkOf().join(" ");
    context.strokeStyle = style.getPropertyValue("--line");
    context.strokeRect(margin + 0.5, margin + 0.5, cell * count - 1, cell * count - 1);
    for (let i = 0; i < count; i++) {
      const row = rowOf(view, i);
      for (let j = 0; j <= i; j++) {
        const alpha = alphaOf(row[j]);
        if (alpha < 0.004) continue;
        context.fillStyle = `rgb(${hot} / ${alpha.toFixed(3)})`;
        const gap = cell > 6 ? 0.5 : 0;
        context.fillRect(margin + j * cell + gap, margin + i * cell + gap, cell - 2 * gap, cell - 2 * gap);
      }
    }
    if (labelled) {
      context.font = `${clamp(cell * 0.75, 8, 12)}px ui-monospace, "DejaVu Sans Mono", monospace`;
      context.textBaseline = "middle";
      for (let i = 0; i < count; i++) {
        const name = [...token(start + i)];
        const short = name.length > 14 ? name.slice(0, 13).join("") + "…" : name.join("");
        context.fillStyle = i === query ? ink : soft;
        context.textAlign = "right";
        context.fillText(short, margin - 5, margin + (i + 0.5) * cell);
        context.save();
        context.translate(margin + (i + 0.5) * cell, margin - 5);
        context.rotate(-Math.PI / 2);
        context.textAlign = "left";
        context.fillStyle = soft;
        context.fillText(short, 0, 0);
        context.restore();
      }
    }
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.strokeRect(margin, margin + query * cell, cell * (query + 1), cell);
    geometry = { margin, cell };
  }

  function showQuery() {
    const row = rowOf(matrix(chosen), query);
    chips.forEach((chip, index) => {
      chip.classList.toggle("query", index === query);
      chip.classList.toggle("later", index > query);
      chip.style.background = index <= query ? color("tint", 0.8 * alphaOf(row[index])) : "";
    });
    byId("query").replaceChildren(element("code", token(start + query)),
      ` (token ${start + query}) attends to`);
    const order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 6);
    byId("keys").replaceChildren(...order.filter((key) => row[key] > 0).map((key) =>
      barRow(`${start + key} ${token(start + key)}`, row[key], percent(row[key]))));
    drawLarge();
  }

  function choose(name) {
    if (chosen !== null) {
      thumbs.get(chosen).setAttribute("aria-pressed", "false");
      thumbs.get(chosen).tabIndex = -1;
    }
    chosen = name;
    thumbs.get(name).setAttribute("aria-pressed", "true");
    thumbs.get(name).tabIndex = 0;
    byId("which").textContent = `Head ${name}`;
    const head = summaries.get(name);
    byId("summary").textContent = `${percent(head.previous)} on the token before, ` +
      `${percent(head.first)} on the first token, entropy ${head.entropy.toFixed(2)} nats`;
    showQuery();
  }

  function drawThumbs() {
    const names = [...thumbs.keys()];
    // A few at a time, so that the page answers while they are drawn.
    const some = Math.max(1, Math.floor(4e6 / (count * count)));
    const next = () => {
      for (const name of names.splice(0, some)) {
        paint(thumbs.get(name).firstChild.getContext("2d"), matrix(name), 96);
      }
      if (names.length) requestAnimationFrame(next);
    };
    next();
  }

  function showAttention() {
    byId("attention").hidden = false;
    for (const head of data.attention.heads) summaries.set(`${head.layer}.${head.head}`, head);
    const names = [...maps.keys()].map((name) => name.split(".").map(Number));
    const layers = [...new Set(names.map(([layer]) => layer))];
    const heads = [...new Set(names.map(([, head]) => head))];
    const grid = byId("heads");
    const side = clamp(Math.floor(600 / heads.length) - 4, 18, 84);
    grid.style.gridTemplateColumns = `auto repeat(${heads.length}, ${side}px)`;
    grid.append(element("span", ""), ...heads.map((head) => element("span", head)));
    for (const layer of layers) {
      grid.append(element("span", layer));
      for (const head of heads) {
        const name = `${layer}.${head}`;
        const button = element("button", undefined, "thumb");
        button.type = "button";
        button.style.width = button.style.height = `${side}px`;
        button.tabIndex = -1;
        button.dataset.head = name;
        button.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-label", `Layer ${layer}, head ${head}`);
        button.title = `Head ${name}`;
        button.append(element("canvas"));
        button.addEventListener("click", () => choose(name));
        thumbs.set(name, button);
        grid.append(button);
      }
    }
    grid.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      if (!move[event.key]) return;
      event.preventDefault();
      const [layer, head] = chosen.split(".").map(Number);
      const y = clamp(layers.indexOf(layer) + move[event.key][0], 0, layers.length - 1);
      const x = clamp(heads.indexOf(head) + move[event.key][1], 0, heads.length - 1);
      choose(`${layers[y]}.${heads[x]}`);
      thumbs.get(chosen).focus();
    });

    const text = byId("text");
    for (let index = 0; index < count; index++) {
      const chip = element("span", token(start + index), "chip");
      chip.dataset.index = index;
      chips.push(chip);
      text.append(chip);
    }
    const ask = (index) => { if (index !== query) { query = index; showQuery(); } };
    text.addEventListener("mouseover", (event) => {
      if (event.target.dataset.index !== undefined) ask(Number(event.target.dataset.index));
    });
    text.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -count, End: count }[event.key];
      if (!step) return;
      event.preventDefault();
      ask(clamp(query + step, 0, count - 1));
      chips[query].scrollIntoView({ block: "nearest" });
    });
    large.addEventListener("mousemove", (event) => {
      const box = large.getBoundingClientRect();
      const i = Math.floor((event.clientY - box.top - geometry.margin) / geometry.cell);
      const j = Math.floor((event.clientX - box.left - geometry.margin) / geometry.cell);
      if (i < 0 || i >= count || j < 0 || j > i) { hide(); return; }
      ask(i);
      const title = element("div", undefined, "title");
      title.append(element("code", token(start + i)), " → ", element("code", token(start + j)));
      const spot = { left: event.clientX + 12, top: event.clientY, bottom: event.clientY + 10 };
      place(spot, title, element("div", percent(rowOf(matrix(chosen), i)[j]), "soft"));
    });
    large.addEventListener("mouseleave", hide);
    const again = () => { drawThumbs(); showQuery(); };
    noFirst.disabled = start !== 0;
    noFirst.addEventListener("change", again);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    addEventListener("resize", drawLarge);
    // First the head that looks most at the token before: the plainest picture.
    const wanted = seen ? seen.previous.map((each) => `${each.layer}.${each.head}`) : [];
    choose(wanted.find((name) => thumbs.has(name)) || thumbs.keys().next().value);
    drawThumbs();
  }
  if (data.attention && maps.size) showAttention();

  // -- the lens
  function showLens() {
    byId("lens").hidden = false;
    const { rows, start: first } = data.lens;
    const table = element("table", undefined, "lens");
    const head = element("thead");
    const names = element("tr");
    names.append(element("th", "layer"));
    rows[0].forEach((_, column) => names.append(element("th", token(first + column))));
    names.querySelectorAll("th").forEach((each) => { each.scope = "col"; });
    head.append(names);
    const body = element("tbody");
    const cells = rows.map((row, y) => {
      const line = element("tr");
      const name = element("th", y === 0 ? "embed" : y - 1);
      name.scope = "row";
      line.append(name);
      const made = row.map(([top, kl, , agrees], x) => {
        const cell = element("td", word(top[0][0]), agrees ? "yes" : "");
        cell.style.background = color("agree", 0.78 * Math.exp(-kl));
        cell.dataset.x = x;
        cell.dataset.y = y;
        return cell;
      });
      line.append(...made);
      body.append(line);
      return made;
    });
    table.append(head, body);
    const box = byId("lens-box");
    box.append(table);
    box.scrollLeft = box.scrollWidth;  // the last position is the one most asked about
    let here = null;
    function show(x, y) {
      if (here) cells[here[1]][here[0]].classList.remove("here");
      here = [x, y];
      const cell = cells[y][x];
      cell.classList.add("here");
      const [top, kl, rank] = rows[y][x];
      const title = element("div", undefined, "title");
      title.append(y === 0 ? "embedding, after " : `layer ${y - 1}, after `,
        element("code", token(first + x)));
      const list = element("table", undefined, "bars");
      list.append(...top.map(([id, logprob]) =>
        barRow(word(id), Math.exp(logprob), percent(Math.exp(logprob)))));
      place(cell.getBoundingClientRect(), title,
        element("div", `KL ${kl.toFixed(3)} nats; the final choice is rank ${rank.toLocaleString("en")}`, "soft"),
        list);
    }
    table.addEventListener("mouseover", (event) => {
      if (event.target.dataset.x !== undefined) show(Number(event.target.dataset.x), Number(event.target.dataset.y));
    });
    table.addEventListener("mouseleave", hide);
    box.addEventListener("scroll", hide);
    box.addEventListener("blur", hide);
    box.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!move) return;
      event.preventDefault();
      const [x, y] = here || [rows[0].length - 1 - move[0], rows.length - 1 - move[1]];
      const to = [clamp(x + move[0], 0, rows[0].length - 1), clamp(y + move[1], 0, rows.length - 1)];
      cells[to[1]][to[0]].scrollIntoView({ block: "nearest", inline: "nearest" });
      requestAnimationFrame(() => show(...to));
    });
  }
  if (data.lens) showLens();

  // -- attribution
  function bothWays(value, most) {
    const box = element("div", undefined, "both");
    const fill = element("i");
    const half = 50 * Math.abs(value) / most;
    fill.style.width = `${half.toFixed(1)}%`;
    fill.style.left = `${(value >= 0 ? 50 : 50 - half).toFixed(1)}%`;
    fill.style.background = `var(--${value >= 0 ? "bar" : "blue"})`;
    box.append(fill);
    return box;
  }
  function showAttribution() {
    byId("attribution").hidden = false;
    const found = data.attribution;
    const methods = [
      ["leave_one_out", "leave one out"], ["input_x_gradient", "input × gradient"],
      ["integrated_gradients", "integrated gradients"],
    ];
    const asked = byId("asked");
    asked.append("log p(", element("code", word(found.target)), ")");
    if (found.contrast !== null) asked.append(" − log p(", element("code", word(found.contrast)), ")");
    asked.append(` = ${found.value.toFixed(3)} nats. Orange made it more likely under the method, ` +
      "blue less. A measure of influence, not the reason for the prediction.");
    const blank = element("code", found.baseline === null ? "the mean embedding" : word(found.baseline));
    byId("method-notes").append("Integrated gradients: from ", blank,
      ` everywhere (${found.baseline_value.toFixed(3)}), ${found.steps} steps, completeness error ` +
      `${(100 * found.completeness_error).toFixed(2)} %.`);
    const most = Object.fromEntries(methods.map(([key]) =>
      [key, Math.max(1e-12, ...found[key].map(Math.abs))]));
    const spans = data.tokens.map((_, index) => element("span", token(index), "chip"));
    byId("influence").append(...spans);
    function tint(key) {
      spans.forEach((span, index) => {
        const value = found[key][index];
        span.style.background = color(value >= 0 ? "tint" : "cool", 0.75 * Math.abs(value) / most[key]);
        span.title = `${nats(value)} nats`;
      });
    }
    methods.forEach(([key, name], index) => {
      const label = element("label");
      const input = element("input");
      input.type = "radio";
      input.name = "method";
      input.value = key;
      input.checked = index === 0;
      input.addEventListener("change", () => tint(key));
      label.append(input, name);
      byId("methods").append(label);
    });
    tint(methods[0][0]);
    const table = byId("influences");
    const head = element("tr");
    head.append(element("th", "token"));
    for (const [, name] of methods) {
      const title = element("th", name);
      title.colSpan = 2;
      head.append(title);
    }
    head.querySelectorAll("th").forEach((each) => { each.scope = "col"; });
    table.append(head);
    data.tokens.forEach((_, index) => {
      const row = element("tr");
      const name = element("td");
      name.append(element("code", token(index)));
      row.append(name);
      for (const [key] of methods) {
        const cell = element("td");
        cell.append(bothWays(found[key][index], most[key]));
        row.append(element("td", nats(found[key][index]), "n"), cell);
      }
      table.append(row);
    });
  }
  if (data.attribution) showAttribution();

  // -- heads off
  function showOff() {
    byId("heads_off").hidden = false;
    const found = data.heads_off;
    byId("h-off").textContent = `Without head${found.heads.length > 1 ? "s" : ""} ${found.heads.join(", ")}`;
    byId("off-notes").textContent = [
      `KL ${found.kl.toFixed(4)} nats for the next token`,
      found.nll_per_token !== null && `the text ${found.nll_per_token.toFixed(4)} nats a token, ` +
        `${found.nll_per_token_without.toFixed(4)} without`,
    ].filter(Boolean).join("; ");
    const table = byId("off");
    const head = element("tr");
    head.append(element("th", "next token"), element("th", "all heads", "n"),
      element("th", "without", "n"), element("th", "log ratio", "n"), element("th", ""));
    table.append(head);
    const ratios = found.candidates.map((each) => each.logprob_without - each.logprob);
    const most = Math.max(1e-12, ...ratios.map(Math.abs));
    found.candidates.forEach((each, index) => {
      const row = element("tr");
      const name = element("td");
      name.append(element("code", word(each.id)));
      const cell = element("td");
      cell.append(bothWays(ratios[index], most));
      row.append(name, element("td", percent(Math.exp(each.logprob)), "n"),
        element("td", percent(Math.exp(each.logprob_without)), "n"),
        element("td", nats(ratios[index]), "n"), cell);
      table.append(row);
    });
  }
  if (data.heads_off) showOff();
