  const record = read("record");
  const chart = byId("chart");
  const draw = (...what) => drawIn(chart, ...what);
  function tell(node, text) {
    node.addEventListener("mousemove", (event) => {
      tip.textContent = text;
      tip.hidden = false;
      const left = Math.min(event.pageX + 14, innerWidth - tip.offsetWidth - 8);
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${event.pageY + 16}px`;
    });
    node.addEventListener("mouseleave", () => { tip.hidden = true; });
    return node;
  }
  const range = (pair) => (missing(pair) ? "" : `${digits(pair[0])} to ${digits(pair[1])}`);
  const figures = (found) => found.forEach((each) => figure(...each));
  function table(head, rows) {
    const line = (cells, tag) => {
      const made = element("tr");
      for (const cell of cells) made.append(element(tag, cell));
      return made;
    };
    byId("table").append(line(head, "th"), ...rows.map((row) => line(row, "td")));
  }
  const WIDTH = 700, LEFT = 52, RIGHT = 12, TOP = 10;
  const across = (share) => LEFT + share * (WIDTH - LEFT - RIGHT);

  function tokens() {
    const bins = record.bins, high = 360, foot = 90;
    chart.setAttribute("viewBox", `0 0 ${WIDTH} ${TOP + high + foot + 36}`);
    const up = (share) => TOP + (1 - share) * high;
    byId("caption").textContent =
      "Bars: how often the likeliest token came, with 95 % bands. Dots: how often the model "
      + "expected it. Where both lie on the dashed line, it is right about itself.";
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(share), y2: up(share) });
      draw("text", { x: LEFT - 8, y: up(share) + 4, "text-anchor": "end" }, `${100 * share} %`);
      draw("text", { x: across(share), y: TOP + high + foot + 30, "text-anchor": "middle" },
        `${100 * share} %`);
    }
    draw("line", { class: "right", x1: across(0), y1: up(0), x2: across(1), y2: up(1) });
    const most = Math.max(...bins.map((bin) => bin.tokens));
    const floor = TOP + high + foot + 14;
    for (const bin of bins) {
      const x = across(bin.low) + 1, wide = across(bin.high) - across(bin.low) - 2;
      const middle = x + wide / 2;
      draw("rect", { class: "bar", x, width: wide, y: up(bin.accuracy),
        height: up(0) - up(bin.accuracy) });
      const [low, top] = bin.accuracy_interval;
      draw("line", { class: "band", x1: middle, x2: middle, y1: up(low), y2: up(top) });
      draw("circle", { class: "sure", cx: across(bin.confidence), cy: up(bin.confidence), r: 4 });
      const tall = Math.max(1, foot * bin.tokens / most);
      draw("rect", { class: "count", x, width: wide, y: floor - tall, height: tall });
      tell(draw("rect", { class: "hit", x, width: wide, y: TOP, height: high + foot + 14 }),
        `confidence ${percent(bin.low)} to ${percent(bin.high)}\n`
        + `${bin.tokens.toLocaleString("en")} tokens\n`
        + `mean confidence ${percent(bin.confidence)}\n`
        + `accuracy ${percent(bin.accuracy)} (${percent(low)} to ${percent(top)})`);
    }
    figures([
      ["ECE", digits(record.ece), range(record.ece_interval)],
      ["by chance", digits(record.ece_floor[0]), `95 % under ${digits(record.ece_floor[1])}`],
      ["accuracy", percent(record.accuracy)],
      ["confidence", percent(record.confidence)],
      ["NLL", digits(record.nll), "nats a token"],
      ["entropy", digits(record.entropy), "nats a token"],
      ["temperature", digits(record.temperature), range(record.temperature_interval)],
      ["smooth ECE", digits(record.smece)],
      ["ACE", digits(record.ace)],
      ["Brier score", digits(record.brier)],
      ["tokens", record.tokens.toLocaleString("en")],
    ]);
    table(["confidence", "tokens", "mean confidence", "accuracy", "95 % of it"],
      bins.map((bin) => [`${bin.low.toFixed(2)}–${bin.high.toFixed(2)}`,
        bin.tokens.toLocaleString("en"), percent(bin.confidence), percent(bin.accuracy),
        `${percent(bin.accuracy_interval[0])} to ${percent(bin.accuracy_interval[1])}`]));
  }

  function generations() {
    const high = 320;
    chart.setAttribute("viewBox", `0 0 ${WIDTH} ${TOP + high + 40}`);
    byId("caption").textContent =
      "Nats a token by depth. Where the entropy drawn from lies above the text's log loss, the "
      + "model writes more at random than people do.";
    const lines = [
      ["text_nll", "text's log loss", "var(--ink)"],
      ["surprisal", "surprisal of what was drawn", "var(--green)"],
      ["entropy", "the model's entropy", "var(--blue)"],
      ["sampling_entropy", "entropy drawn from", "var(--bar)"],
    ].filter(([name]) => record.blocks.some((block) => !missing(block[name])));
    const values = record.blocks.flatMap((block) => lines.flatMap(([name]) =>
      (missing(block[name]) ? [] : [block[name], ...(block[`${name}_interval`] ?? [])])));
    const low = Math.min(...values), top = Math.max(...values), span = top - low || 1;
    const up = (value) => TOP + (1 - (value - low) / span) * (high - 20) + 10;
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const value = low + share * span;
      draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value) });
      draw("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" }, value.toFixed(2));
    }
    const ends = record.blocks[record.blocks.length - 1].end;
    const place = (block) => across((block.begin + block.end) / 2 / ends);
    for (const block of record.blocks) {
      draw("text", { x: place(block), y: TOP + high + 24, "text-anchor": "middle" },
        `${block.begin + 1}–${block.end}`);
    }
    lines.forEach(([name, label, colour], index) => {
      const found = record.blocks.filter((block) => !missing(block[name]));
      const shift = (index - (lines.length - 1) / 2) * 5;
      draw("path", { class: "line", "data-name": name, style: `stroke: ${colour}`,
        d: found.map((block, nth) =>
          `${nth ? "L" : "M"}${place(block) + shift} ${up(block[name])}`).join("") });
      for (const block of found) {
        const x = place(block) + shift, pair = block[`${name}_interval`];
        if (!missing(pair)) {
          draw("line", { class: "whisker", style: `stroke: ${colour}`, x1: x, x2: x,
            y1: up(pair[0]), y2: up(pair[1]) });
        }
        tell(draw("circle", { cx: x, cy: up(block[name]), r: 5, style: `fill: ${colour}` }),
          `tokens ${block.begin + 1} to ${block.end}\n${label}: ${digits(block[name])}`
          + (missing(pair) ? "" : `\n95 %: ${range(pair)}`));
      }
      const item = element("span", label);
      item.style.setProperty("--own", colour);
      byId("legend").append(item);
    });
    const all = record.overall;
    figures([
      ["EntCE", digits(all.entce), range(all.entce_interval)],
      ["entropy drawn from", digits(all.sampling_entropy)],
      ["text's log loss", digits(all.text_nll)],
      ["surprisal", digits(all.surprisal)],
      ["continuations", `${record.samples} × ${record.length}`],
      ...(missing(record.match) || missing(record.match.flags) ? []
        : [["matched with", record.match.flags]]),
    ]);
    table(["tokens", "entropy", "drawn", "surprisal", "text", "EntCE", "95 % of it"],
      record.blocks.map((block) => [`${block.begin + 1}–${block.end}`, digits(block.entropy),
        digits(block.sampling_entropy), digits(block.surprisal), digits(block.text_nll),
        digits(block.entce), range(block.entce_interval)]));
  }

  const written = !missing(record.blocks);
  heading(
    written ? `What ${record.model} writes` : `Calibration of ${record.model}`,
    [record.model, record.revision && record.revision.slice(0, 12), record.precision,
      `llmcli ${record.versions.llmcli}`]);
  (written ? generations : tokens)();
