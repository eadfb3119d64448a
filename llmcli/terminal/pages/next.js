  // What a model expects next, beside what the sampling filters leave of it.
  const record = read("record");
  const chart = byId("chart");
  const draw = (...what) => drawIn(chart, ...what);
  heading(`What ${record.model} expects next`, [
    record.precision, record.revision && `revision ${String(record.revision).slice(0, 12)}`,
    record.versions && `llmcli ${record.versions.llmcli}`,
  ]);
  figure("entropy", `${(record.entropy / Math.LN2).toFixed(3)} bits`, `${digits(record.entropy)} nats`);
  figure("prompt tokens", record.prompt_tokens.toLocaleString("en"));
  byId("prompt").textContent = escaped(record.prompt);

  const found = record.candidates;
  byId("caption").textContent =
    `The ${found.length} likeliest tokens: the model's own probability, and that of the `
    + "distribution drawn from.";
  const names = [["the model's own", "var(--bar)"], ["drawn from", "var(--blue)"]];
  byId("legend").append(...names.map(([name, colour]) => {
    const item = element("span", name);
    item.style.setProperty("--own", colour);
    return item;
  }));
  const most = Math.max(1e-9, ...found.flatMap((each) => (
    [each.probability, each.sampled_probability])));
  const ROW = 30, TOP = 6;
  function drawChart() {
    chart.replaceChildren();
    const width = Math.max(240, chart.clientWidth);
    const longest = Math.max(...found.map((each) => [...visible(each.token)].length));
    const shown = Math.min(longest, Math.floor(width / 20));
    const left = 14 + 7.4 * shown, right = width > 500 ? 150 : 60, floor = TOP + ROW * found.length;
    chart.setAttribute("height", floor + 26);
    const x = (share) => left + (share / most) * (width - left - right);
    for (const value of ticks(most, width > 500 ? 5 : 3)) {
      draw("line", { class: "grid", x1: x(value), x2: x(value), y1: TOP, y2: floor });
      draw("text", { class: "tick", x: x(value), y: floor + 18, "text-anchor": "middle" },
        `${digits(100 * value)} %`);
    }
    found.forEach((each, index) => {
      const y = TOP + ROW * index;
      const name = [...visible(each.token)];
      draw("text", { class: "token", x: left - 8, y: y + 18, "text-anchor": "end" },
        name.length > shown ? `${name.slice(0, shown - 1).join("")}…` : name.join(""));
      draw("rect", { class: "own", x: left, y: y + 4, height: 10, rx: 2,
        width: Math.max(1, x(each.probability) - left) });
      if (each.sampled_probability > 0) {
        draw("rect", { class: "drawn", x: left, y: y + 16, height: 6, rx: 2,
          width: Math.max(1, x(each.sampled_probability) - left) });
      }
      draw("text", { x: Math.max(x(each.probability), x(each.sampled_probability)) + 6, y: y + 17 },
        percent(each.probability)
          + (width > 500 ? `, drawn ${percent(each.sampled_probability)}` : ""));
      const area = draw("rect", { class: "hit", x: 0, y, width, height: ROW });
      const tell = () => place(area.getBoundingClientRect(),
        element("div", visible(each.token), "title mono"),
        element("div", `${percent(each.probability)}, ${(-each.logprob / Math.LN2).toFixed(2)} bits`),
        element("div", each.sampled_logprob === null ? `id ${each.id}, left out by the filters`
          : `id ${each.id}, drawn at ${percent(each.sampled_probability)}`, "soft"));
      area.addEventListener("mouseenter", tell);
      area.addEventListener("mouseleave", hide);
    });
  }
  drawChart();
  addEventListener("resize", drawChart);

  const line = (cells, tag) => {
    const made = element("tr");
    made.append(...cells.map((cell) => element(tag, cell)));
    return made;
  };
  if (record.filters.length) {
    byId("filters").append(line(["filter", "tokens kept", "probability kept", "entropy, nats"], "th"),
      ...record.filters.map((step) => line([
        step.name.replace(/_/g, "-") + (step.value === null ? "" : ` ${digits(step.value)}`),
        step.kept.toLocaleString("en"), percent(step.mass), digits(step.entropy)], "td")));
  }
