  // What all pages share.
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
  const missing = (value) => value === null || value === undefined;
  const digits = (value, count = 4) => (missing(value) ? "–"
    : value.toLocaleString("en", { maximumSignificantDigits: count }));
  const percent = (p) => (p >= 0.001 || p === 0
    ? (100 * p).toFixed(p >= 0.1 ? 1 : 2) + " %" : (100 * p).toExponential(0) + " %");

  function element(tag, content, className) {
    const made = document.createElement(tag);
    if (content !== undefined) made.textContent = content;
    if (className) made.className = className;
    return made;
  }
  function drawIn(chart, tag, attributes, content) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (content !== undefined) made.textContent = content;
    chart.append(made);
    return made;
  }
  // Control and bidirectional characters are shown, not sent.
  const CONTROLS =
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  const escaped = (content) => content.replace(CONTROLS,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const visible = (content) => escaped(
    content.replace(/\n/g, "↵").replace(/\t/g, "→").replace(/ /g, "␣"));

  const tip = byId("tip");
  const hide = () => { tip.hidden = true; };
  function place(box, ...content) {
    tip.replaceChildren(...content);
    tip.hidden = false;
    const left = clamp(box.left, 8, Math.max(8, innerWidth - tip.offsetWidth - 8));
    const below = box.bottom + 6 + tip.offsetHeight <= innerHeight || box.top < tip.offsetHeight + 12;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + scrollY}px`;
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  function heading(title, how) {
    byId("title").textContent = document.title = title;
    byId("how").textContent = how.filter(Boolean).join(" · ");
  }
  function figure(label, value, remark) {
    const pair = element("div");
    const shown = element("dd", value);
    if (remark) shown.append(element("small", remark));
    pair.append(element("dt", label), shown);
    byId("figures").append(pair);
  }
  function barRow(name, share, shown, className) {
    const row = element("tr", undefined, className);
    const label = element("td");
    label.append(element("code", name));
    const middle = element("td");
    const fill = element("div", undefined, "fill");
    fill.style.width = `${(100 * clamp(share, 0, 1)).toFixed(1)}%`;
    middle.append(fill);
    row.append(label, middle, element("td", shown));
    return row;
  }
  // Round numbers from 0 up to `most`, some `count` of them.
  function ticks(most, count) {
    const rough = most / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) => index * step);
  }
