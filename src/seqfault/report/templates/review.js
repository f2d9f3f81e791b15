"use strict";
(function () {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const STATES = ["vmas", "tables", "frames", "tlbs", "locks", "counts", "pending"];

  function el(tag, cls, text) {
    const e = document.createElement(tag);
    if (cls) e.className = cls;
    if (text !== undefined) e.textContent = text;
    return e;
  }

  // what an entry says, in a narrow cell
  function frame(e) { return `${e[1]} ${e[2]}`; }

  // -- light and dark
  const theme = document.getElementById("theme");
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  function stored() { try { return localStorage.getItem("seqfault-theme"); } catch { return null; } }
  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : media.matches; }
  function showTheme() { theme.setAttribute("aria-pressed", String(isDark())); }
  if (stored() === "dark" || stored() === "light") root.dataset.theme = stored();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("seqfault-theme", root.dataset.theme); } catch { /* a page from a file may have no storage */ }
    showTheme();
  });
  media.addEventListener("change", showTheme);
  showTheme();

  // -- commands
  for (const b of document.querySelectorAll(".copy")) {
    b.addEventListener("click", () => {
      const pre = b.parentElement.querySelector("pre");
      const done = () => { b.textContent = "Copied"; setTimeout(() => { b.textContent = "Copy"; }, 1500); };
      const select = () => getSelection().selectAllChildren(pre);
      if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).then(done, select);
      else select();
    });
  }

  // -- a counterexample
  class Viewer {
    constructor(stage, t) {
      this.t = t;
      this.stage = stage;
      this.last = t.steps.length;
      this.every = false;
      this.build();
      this.go(this.firstStop());
    }

    // the moments that are stopped at: before any step, and after each step that has something to see
    stops() {
      const out = [0];
      this.t.steps.forEach((events, i) => {
        if (events.some((e) => this.every || e[6])) out.push(i + 1);
      });
      if (out[out.length - 1] !== this.last) out.push(this.last);
      return out;
    }
    firstStop() { return 0; }

    column(c) { return c < 0 ? "at rest" : this.t.columns[c][1]; }
    paint(c) { return "p" + (c < 0 ? 4 : Math.min(c, 4)); }

    build() {
      const t = this.t;
      this.stage.replaceChildren();
      const what = el("p", "what");
      what.append(el("b", "", t.scenario), ` under ${t.memory}` + (t.setup.length ? `; before: ${t.setup.join("; ")}` : "") +
        `. ${t.steps.length} steps, ${t.switches} context switch${t.switches === 1 ? "" : "es"}.`);
      if (t.prose) what.append(el("br"), el("span", "n", t.prose));

      const controls = el("div", "controls");
      controls.setAttribute("role", "group");
      controls.setAttribute("aria-label", "Step through the counterexample");
      const button = (text, label, act) => {
        const b = el("button", "", text);
        b.type = "button";
        b.setAttribute("aria-label", label);
        b.title = label;
        b.addEventListener("click", act);
        controls.append(b);
        return b;
      };
      this.toFirst = button("|\u25c0", "First step (Home)", () => this.first());
      this.back = button("\u25c0", "Step back (Left arrow)", () => this.move(-1));
      this.forth = button("\u25b6", "Step forward (Right arrow)", () => this.move(1));
      this.toLast = button("\u25b6|", "Last step (End)", () => this.end());
      this.slider = el("input");
      this.slider.type = "range";
      this.slider.min = "0";
      this.slider.step = "1";
      this.slider.setAttribute("aria-label", "Moment");
      this.slider.addEventListener("input", () => this.go(this.stops()[Number(this.slider.value)]));
      controls.append(this.slider);
      const label = el("label");
      this.box = el("input");
      this.box.type = "checkbox";
      this.box.addEventListener("change", () => { this.every = this.box.checked; this.list(); this.go(this.nearest()); });
      label.append(this.box, " every step");
      controls.append(label);

      this.said = el("p", "said");
      this.said.setAttribute("aria-live", "polite");
      this.said.setAttribute("aria-atomic", "true");

      const left = el("div", "pane");
      left.append(el("h4", "", "What happens"));
      this.events = el("div", "events");
      this.events.tabIndex = 0;
      this.events.setAttribute("role", "region");
      this.events.setAttribute("aria-label", "What happens, a column for each CPU; arrow keys step");
      left.append(this.events);
      const right = el("div", "pane");
      right.append(el("h4", "", "The address space in memory, after this step"));
      this.space = el("div", "space");
      this.facts = el("div", "facts");
      right.append(this.space, this.facts);
      const grid = el("div", "grid");
      grid.append(left, right);

      this.texts = el("div", "texts");
      this.panes = [];
      t.columns.forEach((c, i) => {
        if (!t.steps.some((events) => events.some((e) => e[0] === i && e[3] >= 0))) return;
        const pane = el("div", "text " + this.paint(i));
        const h = el("h4");
        const lines = el("ol", "lines");
        lines.tabIndex = 0;
        lines.setAttribute("aria-label", `Text of ${c[1]}`);
        pane.append(h, lines);
        this.texts.append(pane);
        this.panes.push({ column: i, pane, h, lines, shown: -2 });
      });

      const cmd = el("div", "cmd");
      const pre = el("pre", "", `seqfault replay '${t.schedule}'`);
      pre.tabIndex = 0;
      cmd.append(pre);
      this.stage.append(what, controls, this.said, grid, this.texts, cmd);
      this.where();
      this.list();
      this.stage.onkeydown = (e) => this.key(e);
    }

    // for each moment, the event that each column did last
    where() {
      let now = this.t.columns.map(() => null);
      this.position = [now];
      for (const events of this.t.steps) {
        now = now.slice();
        for (const e of events) if (e[0] >= 0 && e[3] >= 0) now[e[0]] = e;
        this.position.push(now);
      }
    }

    list() {
      const t = this.t;
      this.events.replaceChildren();
      this.events.style.setProperty("--lanes", String(Math.max(1, t.columns.length)));
      const lanes = el("div", "lanes");
      t.columns.forEach((c, i) => {
        const head = el("div", this.paint(i));
        head.append(el("b", "", c[1]));
        if (c[2] >= 0 && t.operations[c[2]] && t.operations[c[2]].length) head.append(": " + t.operations[c[2]].join("; "));
        lanes.append(head);
      });
      this.events.append(lanes);
      this.rows = [];
      const fn = {};
      let turn = null;
      t.steps.forEach((events, i) => {
        let looping = t.loop_from === i;
        for (const e of events) {
          if (!this.every && !e[6] && !looping) continue;
          const row = el("div", `ev ${this.paint(e[0])} ${e[1]}`);
          const cell = el("div");
          cell.style.setProperty("--lane", String(Math.max(0, e[0]) + 1));
          if (looping) cell.append(el("span", "loop", "from here on for ever:"));
          looping = false;
          const text = DATA.texts[e[3]];
          const name = text ? text.name : e[8];
          if (name && (fn[e[0]] !== name || turn !== e[0]) && e[1] !== "flush") {
            const f = el("span", "fn");
            f.append(el("span", "who", this.column(e[0]) + " "), `${name}()`);
            cell.append(f);
            fn[e[0]] = name;
          }
          turn = e[0];
          const line = text && text.lines[e[4]];
          const source = line ? line[1].split("#")[0].trim() : e[10];
          if (source) cell.append(el("span", "src", `${line ? line[0] : e[9]}  ${source}  `));
          cell.append(e[1] === "violation" ? `*** ${e[2]} ***` : e[2]);
          row.append(cell);
          row.addEventListener("click", () => this.go(i + 1));
          this.events.append(row);
          this.rows.push([i + 1, row]);
        }
      });
    }

    key(e) {
      if (e.altKey || e.ctrlKey || e.metaKey) return;
      if (e.target === this.slider && e.key.startsWith("Arrow")) return;
      const act = { ArrowRight: () => this.move(1), ArrowLeft: () => this.move(-1), ArrowDown: () => this.move(1), ArrowUp: () => this.move(-1),
        Home: () => this.first(), End: () => this.end() }[e.key];
      if (!act || e.target.tagName === "SELECT" || (e.target.classList.contains("lines") && e.key.match(/Up|Down/))) return;
      e.preventDefault();
      act();
    }
    nearest() { return this.stops().reduce((a, b) => (Math.abs(b - this.at) < Math.abs(a - this.at) ? b : a)); }
    index() { return this.stops().indexOf(this.nearest()); }
    move(by) {
      const s = this.stops();
      const i = by > 0 ? s.findIndex((x) => x > this.at) : s.filter((x) => x < this.at).length - 1;
      if (i >= 0 && i < s.length) this.go(s[i]);
    }
    first() { this.go(0); }
    end() { this.go(this.last); }

    part(name, moment) { return this.t.parts[name][this.t.states[moment][STATES.indexOf(name)]]; }

    go(moment) {
      const t = this.t;
      this.at = moment;
      const stops = this.stops();
      const i = this.index();
      this.before = i > 0 && stops[i] === moment ? stops[i - 1] : Math.max(0, moment - 1);
      this.slider.max = String(stops.length - 1);
      this.slider.value = String(i);
      const events = moment ? t.steps[moment - 1] : [];
      const mover = events.length ? events[0][0] : -2;
      this.slider.setAttribute("aria-valuetext", moment ? `step ${moment} of ${this.last}, ${this.column(mover)}` : "before the first step");
      this.toFirst.disabled = this.back.disabled = moment === 0;
      this.toLast.disabled = this.forth.disabled = moment === this.last;
      this.speak(moment, events, mover);
      let seen = null;
      for (const [m, row] of this.rows) {
        row.classList.toggle("now", m === moment);
        row.classList.toggle("past", m < moment);
        row.classList.toggle("future", m > moment);
        if (m <= moment) seen = row;
      }
      if (seen) this.reveal(this.events, seen);
      else this.events.scrollTop = 0;
      this.draw();
      this.lines(mover);
    }

    reveal(box, row) {
      const top = row.offsetTop - box.clientHeight * 0.55;
      box.scrollTop = Math.max(0, top);
    }

    speak(moment, events, mover) {
      this.said.replaceChildren();
      if (!moment) {
        this.said.append(el("b", "", `Before the first of ${this.last} steps.`), " Arrow keys, Home and End step.");
        return;
      }
      const visible = events.filter((e) => this.every || e[6]);
      const told = visible.length ? visible : events.slice(-1);
      this.said.append(el("b", "", `Step ${moment} of ${this.last}, ${this.column(mover)}: `), told.map((e) => e[2]).join("; ") + ".");
      const stack = told.length ? this.t.stacks[told[told.length - 1][5]] : "";
      const site = told.map((e) => e[7]).filter(Boolean)[0];
      const path = el("span", "path", stack ? stack.replaceAll(" > ", " \u203a ") : "");
      if (site) path.append(` [${site}]`);
      this.said.append(path);
    }

    // -- the state
    draw() {
      const now = this.at, old = this.before;
      const pages = this.t.pages;
      this.space.replaceChildren();
      this.space.style.setProperty("--pages", String(pages));
      const line = (label, cells, aria) => {
        const r = el("div", "row");
        r.append(el("span", "", label));
        const p = el("div", "pages");
        if (aria) { p.setAttribute("role", "img"); p.setAttribute("aria-label", aria); }
        p.append(...cells);
        r.append(p);
        this.space.append(r);
      };
      const span = (from, to, cls, text) => {
        const d = el("div", cls, text);
        d.style.gridColumn = `${from + 1} / ${Math.max(to, from + 1) + 1}`;
        d.style.gridRow = "1";
        return d;
      };
      line("page", Array.from({ length: pages }, (_, i) => span(i, i + 1, "num", String(i))));

      const was = new Map(this.part("vmas", old).map((v) => [v[0], v]));
      const lanes = [];
      for (const v of this.part("vmas", now)) {
        const kind = v[1] === "listed" ? 0 : 1;
        let lane = lanes.find((l) => l.kind === kind && l.vmas.every((w) => w[3] <= v[2] || w[2] >= v[3]));
        if (!lane) lanes.push((lane = { kind, vmas: [] }));
        lane.vmas.push(v);
      }
      if (!lanes.some((l) => l.kind === 0)) line("VMAs", [span(0, pages, "empty", "none")]);
      for (const lane of lanes.sort((a, b) => a.kind - b.kind)) {
        const cells = lane.vmas.map((v) => {
          const w = was.get(v[0]) || [];
          const d = span(v[2], v[3], `vma ${v[1]}`);
          const put = (text, changed, cls) => d.append(el("span", (changed ? "ch " : "") + (cls || ""), text));
          put(v[0], v[2] !== w[2] || v[3] !== w[3] || v[1] !== w[1]);
          put(v[4], v[4] !== w[4]);
          if (v[1] === "freed") put("FREED", v[1] !== w[1]);
          else if (v[8] !== null && v[8] !== undefined) put(`seq ${v[8]}`, v[8] !== w[8], v[8] % 2 ? "odd" : "");
          d.title = this.vmaText(v);
          return d;
        });
        line(lane.kind ? "off list" : "VMAs", cells, lane.vmas.map((v) => this.vmaText(v)).join("; "));
      }

      const oldTables = new Map(this.part("tables", old).map((x) => [x[0], x]));
      const entries = [];
      const tops = [];
      const loose = [];
      for (const [name, table, note, es] of this.part("tables", now)) {
        const o = oldTables.get(name) || ["", "", "", []];
        const changed = o[1] !== table || o[2] !== note;
        const m = name.match(/^pmd\[(\d+)\]$/);
        if (m) {
          const from = Number(m[1]) * this.t.per_table;
          tops.push(span(from, Math.min(pages, from + this.t.per_table), (table ? (note ? "gone" : "") : "empty") + (changed ? " ch" : ""),
            `${name}: ${table || "none"}${note ? " " + note : ""}`));
        } else loose.push([`${table} ${note}`, changed]);
        const before = new Map(o[3].map((e) => [e[0], e.join()]));
        for (const e of es) entries.push(span(e[0], e[0] + 1, before.get(e[0]) === e.join() ? "" : "ch", frame(e)));
        if (m) for (const e of o[3]) if (!es.some((x) => x[0] === e[0])) entries.push(span(e[0], e[0] + 1, "empty ch", "\u2013"));
      }
      line("tables", tops, tops.map((d) => d.textContent).join("; "));
      line("entries", entries, entries.map((d) => `page ${d.style.gridColumn.split(" ")[0] - 1}: frame ${d.textContent}`).join("; ") || "no entries");

      const oldTlbs = new Map(this.part("tlbs", old).map((x) => [x[0], x]));
      const notes = [];
      for (const [name, es, said] of this.part("tlbs", now)) {
        const o = oldTlbs.get(name) || ["", [], []];
        const before = new Map(o[1].map((e) => [e[0], e.join()]));
        const cells = es.map((e) => span(e[0], e[0] + 1, before.get(e[0]) === e.join() ? "" : "ch", frame(e)));
        for (const e of o[1]) if (!es.some((x) => x[0] === e[0])) cells.push(span(e[0], e[0] + 1, "empty ch", "\u2013"));
        line("TLB " + name.replace("CPU ", ""), cells, `TLB of ${name}: ` + (es.map((e) => `page ${e[0]} frame ${e[1]} ${e[2]}`).join("; ") || "empty"));
        for (const s of said) notes.push([`${name}: ${s}`, !o[2].includes(s)]);
      }

      this.space.append(el("p", "n legend", "entries and TLBs: frame and rights; frame 0 is the zero page"));
      this.facts.replaceChildren();
      const facts = (title, rows) => {
        const d = el("div");
        d.append(el("h5", "", title));
        const ul = el("ul");
        for (const [text, changed, cls] of rows) ul.append(el("li", (changed ? "ch " : "") + (cls || ""), text));
        if (!rows.length) ul.append(el("li", "none", "none"));
        d.append(ul);
        this.facts.append(d);
      };
      const changes = (name, say, cls) => {
        const o = new Map(this.part(name, old).map((x) => [x[0], JSON.stringify(x)]));
        return this.part(name, now).map((x) => [say(x), o.get(x[0]) !== JSON.stringify(x), cls ? cls(x) : ""]);
      };
      facts("VMAs", changes("vmas", (v) => this.vmaText(v), (v) => (v[1] === "freed" || v[8] % 2 ? "odd" : "")));
      facts("Locks and readers", [...changes("locks", (l) => `${l[0]}: ${l[1]}`), ...notes]);
      facts("Sequence counts", changes("counts", (c) => `${c[0]} ${c[1]}${c[1] % 2 ? " (odd)" : ""}`, (c) => (c[1] % 2 ? "odd" : "")));
      facts("Frames", changes("frames", (f) => (f[1] ? `${f[0]} freed` : `${f[0]}: refcount ${f[2]} mapcount ${f[3]} ${f[4] ? f[4] + " " : ""}index ${f[5]} data ${f[6]}`)));
      if (loose.length) facts("Tables off the tree", loose);
      if (this.t.parts.pending.length > 1) facts(this.t.memory.startsWith("lkmm") ? "Not seen yet" : "Stores on their way", changes("pending", (p) => `${p[0]}: ${p[1].join(", ")}`));
    }

    vmaText(v) {
      const name = `${v[0]} ${v[2]}-${v[3]} ${v[4]} ${v[5]}`;
      if (v[1] === "freed") return `${name}: freed`;
      const anon = v[7] === null ? "" : ` anon_vma ${v[7]}`;
      const seq = v[8] === null || v[8] === undefined ? "" : ` vm_sequence ${v[8]}${v[8] % 2 ? " (odd)" : ""}`;
      const state = (v[1] === "detached" ? " off the list" : "") + (v[9] && v[9] !== "in tree" ? ` ${v[9]}` : "");
      return `${name} pgoff ${v[6]}${anon}${seq}${state}`;
    }

    // -- the text, with the line that each CPU did last
    lines(mover) {
      for (const p of this.panes) {
        const e = this.position[this.at][p.column];
        const number = e ? e[3] : -1;
        const name = this.column(p.column);
        p.pane.classList.toggle("mover", p.column === mover);
        if (number !== p.shown) {
          p.shown = number;
          p.lines.replaceChildren();
          p.h.replaceChildren(name);
          if (number < 0) p.lines.append(el("li", "idle", "has not begun"));
          else {
            const text = DATA.texts[number];
            p.h.append(" in ", el("code", "", text.name), ` (${text.file})`);
            p.items = text.lines.map(([no, words, site]) => {
              const li = el("li", site ? "site" : "");
              li.append(el("span", "no", no ? String(no) : ""), words);
              if (site) li.title = site;
              p.lines.append(li);
              return li;
            });
          }
        }
        if (number < 0) continue;
        p.items.forEach((li, i) => {
          const here = i === e[4];
          li.classList.toggle("at", here);
          if (here) li.setAttribute("aria-current", "step");
          else li.removeAttribute("aria-current");
        });
        if (e[4] >= 0) {
          p.lines.scrollTop = Math.max(0, p.items[e[4]].offsetTop - p.lines.clientHeight * 0.45);
          p.lines.scrollLeft = 0;
        }
      }
    }
  }

  const viewers = [...document.querySelectorAll(".viewer")];
  function open(box) {
    const select = box.querySelector("select");
    const t = DATA.traces[Number(select ? select.value : box.dataset.trace)];
    return new Viewer(box.querySelector(".stage"), t);
  }
  for (const box of viewers) {
    const button = box.querySelector(".step-through");
    const select = box.querySelector("select");
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!shown));
      button.textContent = shown ? "Step through it" : "Close";
      if (shown) box.querySelector(".stage").replaceChildren();
      else open(box).events.focus({ preventScroll: true });
    });
    if (select) select.addEventListener("change", () => { if (button.getAttribute("aria-expanded") === "true") open(box); });
  }
  if (viewers.length) {
    const button = viewers[0].querySelector(".step-through");
    button.setAttribute("aria-expanded", "true");
    button.textContent = "Close";
    open(viewers[0]);
  }
  window.addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details.drawn, #bounds details")) { d.dataset.was = d.open ? "1" : ""; d.open = true; } });
  window.addEventListener("afterprint", () => { for (const d of document.querySelectorAll("details[data-was]")) d.open = d.dataset.was === "1"; });
})();
