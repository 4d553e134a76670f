"use strict";
// The table of experiments, its dialog and the theme. All text reaches the page as text, never as HTML.

const THEME = "roundhouse-theme";
const SOME = 100; // rows drawn at a time: a round may have ten thousand
const MISSING = "–";

// ------------------------------------------------------------------------------------------------------------ theme

function remembered() {
  try {
    const theme = localStorage.getItem(THEME);
    return theme === "dark" || theme === "light" ? theme : null;
  } catch {
    return null; // a browser may forbid pages from disk to remember anything
  }
}

if (remembered()) document.documentElement.dataset.theme = remembered();

function startTheme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const update = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem(THEME, theme); } catch { /* then the choice lasts until the page is left */ }
    update();
  });
  system.addEventListener("change", update);
  update();
  button.hidden = false;
}

// ---------------------------------------------------------------------------------------------------------- elements

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function tag(state) {
  const shown = document.querySelector(`#filters .tag.${CSS.escape(state)}`);
  return shown ? shown.cloneNode(true) : document.createTextNode(state);
}

function link(path) {
  return path.split("/").map(encodeURIComponent).join("/");
}

// ------------------------------------------------------------------------------------------------------------ values

function shown(kind, value) {
  if (value === null) return MISSING;
  if (kind === "share") return (100 * value).toFixed(2);
  if (kind === "hours") return value < 0.1 ? String(Number(value.toPrecision(2))) : value.toFixed(2);
  if (kind === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  if (kind === "epochs") return `${value[0]}/${value[1] === null ? "?" : value[1]}`;
  return String(value);
}

const keys = new Map();

// Numbers within text count as numbers: alpha_0.5 comes before alpha_0.75, and seed 2 before seed 10.
function parts(text) {
  if (!keys.has(text)) keys.set(text, text.split(/(\d+(?:\.\d+)?)/));
  return keys.get(text);
}

function compareText(one, other) {
  const [left, right] = [parts(one), parts(other)];
  for (let place = 0; place < Math.min(left.length, right.length); place += 1) {
    if (place % 2) {
      const difference = Number(left[place]) - Number(right[place]);
      if (difference) return difference;
    } else if (left[place] !== right[place]) {
      return left[place] < right[place] ? -1 : 1;
    }
  }
  return left.length - right.length;
}

function compare(kind, one, other) {
  if (kind === "epochs") return one[0] - other[0];
  return typeof one === "number" && typeof other === "number" ? one - other : compareText(String(one), String(other));
}

// ------------------------------------------------------------------------------------------------------------- table

class Table {
  constructor(data) {
    this.data = data;
    this.view = { q: "", states: [], sort: null, descending: false };
    this.order = [];
    this.drawn = 0;
    this.state = data.columns.findIndex((column) => column.key === "state");
    this.words = data.rows.map((row, number) => this.haystack(row, data.details[number]));
    this.body = element("tbody");
    this.heads = data.columns.map((column, number) => this.head(column, number));
    const table = document.getElementById("table");
    table.append(element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    this.more = document.getElementById("more");
    this.more.addEventListener("click", () => this.draw());
    new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting)) this.draw();
    }, { rootMargin: "400px" }).observe(this.more);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !String(getSelection())) this.open(Number(row.dataset.number), row.querySelector("button"));
    });
    this.controls();
  }

  haystack(row, details) {
    const words = row.filter((value) => typeof value === "string").map((text) => text.replaceAll("_", " "));
    const config = Object.entries(details.config).flat();
    return [...row.map(String), ...words, details.reason, ...config].join("\n").toLowerCase();
  }

  head(column, number) {
    const button = element("button", { type: "button" }, column.label, element("span", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      const view = this.view;
      // Ascending, descending, and back to the order of the round file.
      if (view.sort !== number) Object.assign(view, { sort: number, descending: false });
      else if (!view.descending) view.descending = true;
      else view.sort = null;
      this.show();
    });
    return element("th", { scope: "col", class: this.looks(column) }, button);
  }

  looks(column) {
    return ["text", "state"].includes(column.kind) ? "" : "number";
  }

  controls() {
    this.filter = document.getElementById("filter");
    this.ticks = [...document.querySelectorAll("#filters [name=state]")];
    this.filter.addEventListener("input", () => { this.view.q = this.filter.value; this.show(); });
    for (const tick of this.ticks) {
      tick.addEventListener("change", () => {
        this.view.states = this.ticks.filter((one) => one.checked).map((one) => one.value);
        this.show();
      });
    }
    document.getElementById("clear").addEventListener("click", () => {
      Object.assign(this.view, { q: "", states: [] });
      this.show();
      this.filter.focus();
    });
    document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("filters").hidden = false;
  }

  // The view is kept in the address, so that it can be bookmarked and sent. Other fragments are places in the page.
  recall() {
    const [place, query] = location.hash.split("?");
    if (place !== "#experiments" || query === undefined) return false;
    const parameters = new URLSearchParams(query);
    const sort = this.data.columns.findIndex((column) => column.key === parameters.get("sort"));
    this.view = {
      q: parameters.get("q") || "",
      states: (parameters.get("state") || "").split(",").filter((state) => this.ticks.some((one) => one.value === state)),
      sort: sort < 0 ? null : sort,
      descending: parameters.get("order") === "descending",
    };
    return true;
  }

  remember() {
    const { q, states, sort, descending } = this.view;
    const parameters = new URLSearchParams();
    if (q) parameters.set("q", q);
    if (states.length) parameters.set("state", states.join(","));
    if (sort !== null) {
      parameters.set("sort", this.data.columns[sort].key);
      if (descending) parameters.set("order", "descending");
    }
    history.replaceState(null, "", String(parameters) ? `#experiments?${parameters}` : "#experiments");
  }

  show(remember = true) {
    const { q, states, sort, descending } = this.view;
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (number) => (!states.length || states.includes(this.data.rows[number][this.state]))
      && words.every((word) => this.words[number].includes(word));
    this.order = this.data.rows.map((_, number) => number).filter(fits);
    if (sort !== null) this.order.sort((one, other) => this.compareRows(one, other));
    this.heads.forEach((head, number) => {
      const way = number === sort ? (descending ? "descending" : "ascending") : "none";
      head.setAttribute("aria-sort", way);
      head.querySelector("span").textContent = { ascending: " ▲", descending: " ▼", none: "" }[way];
    });
    if (this.filter.value !== q) this.filter.value = q;
    for (const tick of this.ticks) tick.checked = states.includes(tick.value);
    const [some, all] = [this.order.length, this.data.rows.length];
    document.getElementById("count").textContent = `${some} of ${all} experiments shown`;
    this.body.replaceChildren();
    this.drawn = 0;
    this.draw();
    if (remember) this.remember();
  }

  compareRows(one, other) {
    const { sort, descending } = this.view;
    const [left, right] = [this.data.rows[one][sort], this.data.rows[other][sort]];
    if (left === null || right === null) return (left === null) - (right === null); // missing last, either way
    const way = compare(this.data.columns[sort].kind, left, right);
    return descending ? -way : way;
  }

  draw() {
    const next = this.order.slice(this.drawn, this.drawn + SOME);
    this.body.append(...next.map((number) => this.row(number)));
    this.drawn += next.length;
    const left = this.order.length - this.drawn;
    this.more.hidden = left === 0;
    this.more.textContent = `Show more (${left} left)`;
  }

  row(number) {
    const cells = this.data.columns.map((column, place) => {
      const value = this.data.rows[number][place];
      if (column.key === "path") {
        return element("th", { scope: "row" }, element("button", { type: "button", class: "path", "aria-haspopup": "dialog" }, value));
      }
      if (column.kind === "state") return element("td", {}, tag(value));
      const long = typeof value === "string" && value.length > 24;
      return element("td", { class: `${this.looks(column)} ${long ? "long" : ""}`.trim() || null }, shown(column.kind, value));
    });
    return element("tr", { "data-number": String(number) }, ...cells);
  }

  open(number, opener) {
    const details = this.data.details[number];
    const measured = this.data.columns
      .map((column, place) => [column.label, shown(column.kind, this.data.rows[number][place]), column.key])
      .filter(([, value, key]) => value !== MISSING && key !== "path" && !key.startsWith("config.") && !key.startsWith("final."))
      .map(([label, value]) => [label, value.replaceAll("_", " ")]);
    const body = [pairs([...measured, ["reason", details.reason], ["directory", details.directory]].filter(([, value]) => value))];
    if (details.curve) body.push(...curve(details.curve));
    if (Object.keys(details.final).length) body.push(heading("Results"), pairs(Object.entries(details.final)));
    body.push(heading("Config"), pairs(Object.entries({ ...details.config, ...this.data.shared })));
    body.push(heading("Attempts"), details.attempts.length ? attempts(details.attempts) : "None yet.");
    present(this.data.rows[number][0], body, opener);
  }
}

// ------------------------------------------------------------------------------------------------------------ dialog

function heading(text) {
  return element("h3", {}, text);
}

function pairs(listed) {
  return element("dl", { class: "pairs" }, ...listed.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
}

function curve(figure) {
  const [width, height] = figure.size || [null, null];
  const image = element("img", { src: link(figure.image), alt: figure.alt, width, height });
  const large = element("a", { href: link(figure.image), class: "enlarge", "aria-label": `Enlarge: ${figure.title}` }, image);
  const data = element("a", { href: link(figure.data), class: "data" }, "Data (CSV)");
  const caption = element("figcaption", {}, element("strong", {}, figure.title), ` ${figure.caption} `, data);
  return [heading("Learning curves"), element("figure", {}, large, caption)];
}

function attempts(listed) {
  const heads = ["attempt", "ended", "why", "host", "started (UTC)"];
  const kept = heads.map((_, place) => place).filter((place) => listed.some((cells) => cells[place]));
  const head = kept.map((place) => element("th", { scope: "col" }, heads[place]));
  const rows = listed.map((cells) => element("tr", {}, ...kept.map((place) => element("td", {}, cells[place] || MISSING))));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Attempts" }, table);
}

function present(title, body, opener) {
  const dialog = document.getElementById("dialog");
  document.getElementById("dialog-title").textContent = title;
  document.getElementById("dialog-body").replaceChildren(...body);
  dialog.addEventListener("close", () => opener.focus(), { once: true });
  dialog.showModal();
  dialog.scrollTop = 0;
}

function startDialog() {
  const dialog = document.getElementById("dialog");
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (event.target === dialog && !inside) dialog.close();
  });
}

document.addEventListener("DOMContentLoaded", () => {
  startTheme();
  startDialog();
  new FigureViewer().start();
  const table = new Table(JSON.parse(document.getElementById("data").textContent));
  const recalled = table.recall();
  table.show(false);
  if (recalled) document.getElementById("experiments").scrollIntoView();
  addEventListener("hashchange", () => { if (table.recall()) table.show(false); });
});
