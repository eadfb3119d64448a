  // Texts tinted by how much each token surprised a model.
  const about = read("about");
  const HOTTEST = 16;  // bits
  const COLOURS = ["var(--bar)", "var(--blue)", "var(--green)", "var(--violet)"];
  const bitsOf = (logprob) => (missing(logprob) ? null : -logprob / Math.LN2);

  heading(about.title, about.how);
  about.figures.forEach((each) => figure(...each));

  // -- the texts: stretches of tokens that share a character, mostly of one
  const panels = about.texts.map((each, index) => (
    { ...each, index, stretches: [], count: 0, bytes: 0 }));
  for (const [which, content, bytes, tokens] of read("stretches")) {
    const panel = panels[which];
    const bits = tokens.map((token) => bitsOf(token[2]));
    panel.stretches.push({
      content, tokens, begin: panel.bytes, end: panel.bytes + bytes, place: panel.count,
      bits: bits.includes(null) ? null : bits.reduce((a, b) => a + b, 0),
    });
    panel.bytes += bytes;
    panel.count += tokens.length;
  }
  const texts = byId("texts");
  texts.className = about.beside ? "beside" : "";
  for (const panel of panels) {
    const box = element("section");
    if (panel.name) {
      const name = element("h2", panel.name);
      if (panel.note) name.append(" ", element("small", panel.note));
      box.append(name);
    }
    const text = element("div", undefined, "text");
    text.tabIndex = 0;
    text.setAttribute("aria-label", "The text, tinted by surprisal");
    if (panel.before) text.append(element("span", escaped(panel.before), "plain"));
    panel.spans = panel.stretches.map(({ content, bits }, index) => {
      const span = element("span", escaped(content).replace(/\n/g, "↵\n"));
      if (bits === null) span.className = "plain";
      else span.style.background =
        `rgb(var(--tint) / ${(0.85 * Math.min(1, bits / HOTTEST)).toFixed(3)})`;
      span.dataset.index = index;
      return span;
    });
    text.append(...panel.spans);
    box.append(text);
    texts.append(box);
    panel.here = -1;
    text.addEventListener("mouseover", (event) => {
      const index = event.target.dataset.index;
      if (index !== undefined) show(panel, Number(index));
    });
    text.addEventListener("mouseleave", () => show(panel, -1));
    text.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") show(panel, -1);
      if (!step || !panel.spans.length) return;
      event.preventDefault();
      show(panel, clamp(panel.here + step, 0, panel.spans.length - 1));
      panel.spans[panel.here].scrollIntoView({ block: "nearest" });
    });
  }

  // -- what the model expected
  function describe([content, id, logprob, rank, entropy, top, drawn]) {
    const part = element("div");
    const head = element("div", undefined, "title");
    head.append(element("code", visible(content)));
    part.append(head);
    if (missing(logprob)) {
      part.append(element("div", `id ${id}, not scored`, "soft"));
      return part;
    }
    const own = missing(rank) ? top.findIndex(([other]) => other === content) + 1 : rank;
    part.append(element("div", [percent(Math.exp(logprob)), `${bitsOf(logprob).toFixed(2)} bits`,
      own && `rank ${own.toLocaleString("en")}`].filter(Boolean).join(", ")));
    part.append(element("div", [`id ${id}`,
      !missing(entropy) && `the model's entropy ${bitsOf(-entropy).toFixed(2)} bits`,
      !missing(drawn) && `drawn at ${percent(Math.exp(drawn))}`].filter(Boolean).join(", "), "soft"));
    const table = element("table", undefined, "bars");
    table.append(...top.map(([other, value], index) => barRow(
      visible(other), Math.exp(value), percent(Math.exp(value)), index + 1 === own ? "own" : "")));
    part.append(table);
    return part;
  }

  // The stretches of other panels that hold some of the same bytes.
  const matches = (panel, index) => (!about.beside || index < 0 ? [] : panels
    .filter((other) => other !== panel)
    .map((other) => [other, other.stretches.flatMap(({ begin, end }, nth) => (
      begin < panel.stretches[index].end && end > panel.stretches[index].begin ? [nth] : []))]));

  function show(panel, index) {
    for (const each of panels) {
      if (each.here >= 0) each.spans[each.here].classList.remove("here");
      each.here = each === panel ? index : -1;
    }
    texts.querySelectorAll(".match").forEach((span) => span.classList.remove("match"));
    if (index < 0) { hide(); return; }
    const span = panel.spans[index];
    span.classList.add("here");
    const said = panel.stretches[index].tokens.map(describe);
    const found = matches(panel, index);
    if (found.length) said.unshift(element("div", panel.name, "soft"));
    for (const [other, places] of found) {
      said.push(element("div", other.name, "soft"));
      for (const nth of places) {
        other.spans[nth].classList.add("match");
        said.push(...other.stretches[nth].tokens.map(describe));
      }
    }
    place(span.getClientRects()[0] || span.getBoundingClientRect(), ...said);
  }

  // -- the chart: the mean of every bin; of one text alone the highest of it behind
  const chart = byId("chart");
  const draw = (...what) => drawIn(chart, ...what);
  const length = Math.max(1, ...panels.map((panel) => (about.beside ? panel.bytes : panel.count)));
  const bins = Math.min(200, length);
  function binned(panel) {
    const found = Array.from({ length: bins }, () => ({ bits: 0, size: 0, peak: 0, index: -1 }));
    panel.stretches.forEach(({ bits, begin, end, place: first, tokens }, index) => {
      if (bits === null) return;
      const at = about.beside ? begin : first;
      const bin = found[Math.min(bins - 1, Math.floor(at * bins / length))];
      bin.bits += bits;
      bin.size += about.beside ? end - begin : tokens.length;
      bin.peak = Math.max(bin.peak, bits / (about.beside ? Math.max(1, end - begin) : 1));
      if (bin.index < 0) bin.index = index;
    });
    return found.map((bin, nth) => ({ ...bin, nth, mean: bin.bits / bin.size }))
      .filter((bin) => bin.size);
  }
  const series = panels.map(binned);
  const alone = panels.length === 1;
  const each = bins === length && !about.beside;  // a bin is a token
  const most = Math.max(1, ...series.flat().map((bin) => (alone ? bin.peak : bin.mean)));
  function drawChart() {
    chart.replaceChildren();
    const width = Math.max(240, chart.clientWidth), high = 130, left = 40, top = 12;
    const x = (share) => left + share * (width - left - 8);
    const y = (bits) => top + high - (high * bits) / most;
    for (const value of ticks(most, 5)) {
      draw("line", { class: "grid", x1: left, x2: width - 8, y1: y(value), y2: y(value) });
      draw("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" },
        digits(value));
    }
    for (const value of ticks(length, width > 500 ? 8 : 4)) {
      draw("text", { class: "tick", x: x(value / length), y: top + high + 18,
        "text-anchor": "middle" }, digits(value, 6));
      draw("line", { class: "grid", x1: x(value / length), x2: x(value / length),
        y1: top + high, y2: top + high + 4 });
    }
    series.forEach((found, index) => {
      const style = `--own: ${COLOURS[index % COLOURS.length]}`;
      const steps = (key) => found.map((bin, nth) => {
        const until = nth + 1 < found.length ? found[nth + 1].nth : bins;
        return `L${x(bin.nth / bins)},${y(bin[key])}H${x(until / bins)}`;
      }).join("");
      if (!found.length) return;
      const from = x(found[0].nth / bins);
      if (alone && !each) {
        draw("path", { class: "peak", style, d: `M${from},${y(0)}${steps("peak")}V${y(0)}Z` });
      }
      draw("path", { class: index ? "mean other" : "mean", style, d: steps("mean").replace("L", "M") });
    });
  }
  byId("caption").textContent = about.beside
    ? "Surprisal over the text, bits a byte. Click to go there."
    : each ? "Surprisal of each token in bits. Click to go there."
      : `Surprisal in bits over ${panels.map(({ count }) => count.toLocaleString("en")).join(", ")} `
        + `tokens: mean of each stretch (line)${alone ? " and its peak (shade)" : ""}. `
        + "Click to go there.";
  if (!alone) {
    byId("legend").append(...panels.map((panel, index) => {
      const item = element("span", panel.name);
      item.style.setProperty("--own", COLOURS[index % COLOURS.length]);
      return item;
    }));
  }
  drawChart();
  addEventListener("resize", drawChart);
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const bin = Math.floor(bins * (event.clientX - box.left - 40) / (box.width - 48));
    const found = series[0].findLast((each) => each.nth <= Math.max(0, bin)) ?? series[0][0];
    if (!found) return;
    panels[0].spans[found.index].scrollIntoView({ block: "center" });
    show(panels[0], found.index);
  });
