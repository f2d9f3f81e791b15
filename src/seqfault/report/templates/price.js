"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#777777", "#009988", "#994455"];
const hidden = new Set();
const el = (id) => document.getElementById(id);
function si(x) {
  if (x === null || x === undefined) return "–";
  for (const u of ["", "k", "M", "G"]) { if (Math.abs(x) < 999.5 || u === "G") return +x.toPrecision(3) + u; x /= 1000; }
}
function node(name, attrs, text) {
  const n = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const k in attrs) n.setAttribute(k, attrs[k]);
  if (text !== undefined) n.textContent = text;
  return n;
}
function describe(s, p) {
  let t = s.protocol + ", " + p.cpus + " CPUs, " + p.threads + " threads\n" + si(p.rate) + " a second";
  if (p.low !== p.high) t += " (" + si(p.low) + " to " + si(p.high) + ")";
  if (p.ratio !== null) t += "\nx" + p.ratio.toFixed(2) + " of " + s.baseline;
  if (p.speculative !== null) t += "\n" + (100 * p.speculative).toFixed(2) + "% of faults without mmap_sem";
  for (const k of Object.keys(p.reasons).slice(0, 5)) t += "\n  " + k + " " + (100 * p.reasons[k] / p.tried).toFixed(2) + "%";
  return t + "\nfault " + si(p.fault_ns) + " ns, waiting " + si(p.fault_wait_ns) + " ns, p99 " + si(p.fault_p99_ns) + " ns";
}
function draw() {
  const w = D.workloads[el("workload").value], what = el("what").value;
  const log = el("log").checked && what !== "speculative" && what !== "ratio";
  el("title").textContent = w.title + " (" + w.unit + " a second). " + w.source;
  const all = w.series.map((s, i) => ({ s, colour: COLOURS[i % COLOURS.length] }));
  const legend = el("legend");
  legend.replaceChildren();
  for (const { s, colour } of all) {
    const b = document.createElement("button"), i = document.createElement("i");
    i.style.background = colour;
    b.append(i, s.protocol);
    b.title = s.title + ", policy of semaphores: " + s.policy;
    b.setAttribute("aria-pressed", String(!hidden.has(s.protocol)));
    b.onclick = () => { hidden.has(s.protocol) ? hidden.delete(s.protocol) : hidden.add(s.protocol); draw(); };
    legend.append(b);
  }
  const shown = all.filter((x) => !hidden.has(x.s.protocol));
  const W = 900, H = 420, L = 60, R = 20, T = 12, B = 34;
  const svg = node("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": w.name + ", " + what });
  const ys = shown.flatMap((x) => x.s.points.map((p) => p[what])).filter((v) => v !== null && (!log || v > 0));
  const xs = w.series[0].points.map((p) => p.cpus);
  if (!ys.length) { el("chart").textContent = "Nothing to show: no protocol here has this figure."; el("table").replaceChildren(); return; }
  const f = log ? Math.log : (v) => v;
  let lo = log ? Math.min(...ys) : 0, hi = Math.max(...ys);
  if (hi === lo) hi = lo + 1;
  const X = (v) => L + (W - L - R) * (xs.length < 2 ? 0.5 : (Math.log(v) - Math.log(xs[0])) / (Math.log(xs[xs.length - 1]) - Math.log(xs[0])));
  const Y = (v) => H - B - (H - T - B) * (f(v) - f(lo)) / (f(hi) - f(lo));
  for (let k = 0; k <= 5; k++) {
    const v = log ? Math.exp(f(lo) + (f(hi) - f(lo)) * k / 5) : lo + (hi - lo) * k / 5;
    svg.append(node("line", { x1: L, x2: W - R, y1: Y(v), y2: Y(v), stroke: "#8883" }), node("text", { x: L - 6, y: Y(v) + 4, "text-anchor": "end" }, si(v)));
  }
  for (const x of xs) svg.append(node("text", { x: X(x), y: H - B + 18, "text-anchor": "middle" }, x));
  svg.append(node("text", { x: W - R, y: H - 2, "text-anchor": "end" }, "CPUs"));
  const tip = el("tip");
  for (const { s, colour } of shown) {
    const ps = s.points.filter((p) => p[what] !== null && (!log || p[what] > 0));
    svg.append(node("polyline", { points: ps.map((p) => X(p.cpus) + "," + Y(p[what])).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": s.asked ? "" : "4 4" }));
    for (const p of ps) {
      if (what === "rate" && p.low !== p.high) svg.append(node("line", { x1: X(p.cpus), x2: X(p.cpus), y1: Y(Math.max(p.low, lo)), y2: Y(Math.min(p.high, hi)), stroke: colour }));
      const c = node("circle", { cx: X(p.cpus), cy: Y(p[what]), r: 5, fill: colour, tabindex: 0 });
      c.append(node("title", {}, describe(s, p)));
      c.onmousemove = (e) => { tip.hidden = false; tip.textContent = describe(s, p); tip.style.left = Math.min(e.clientX + 14, innerWidth - 320) + "px"; tip.style.top = e.clientY + 14 + "px"; };
      c.onmouseleave = () => { tip.hidden = true; };
      svg.append(c);
    }
  }
  el("chart").replaceChildren(svg);
  const head = "<tr><th>CPUs</th>" + shown.map((x) => "<th></th>").join("") + "</tr>";
  const table = el("table");
  table.innerHTML = "<thead>" + head + "</thead>";
  shown.forEach((x, i) => { table.querySelectorAll("th")[i + 1].textContent = x.s.protocol; });
  const body = document.createElement("tbody");
  xs.forEach((n, k) => {
    const r = document.createElement("tr");
    for (const v of [n, ...shown.map((x) => { const p = x.s.points[k][what]; return what === "speculative" && p !== null ? (100 * p).toFixed(2) + "%" : si(p); })]) {
      const d = document.createElement("td"); d.textContent = v; r.append(d);
    }
    body.append(r);
  });
  table.append(body);
}
for (const id of ["workload", "what", "log"]) el(id).onchange = draw;
draw();
