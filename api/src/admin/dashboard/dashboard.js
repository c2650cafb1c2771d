// Polls the JSON routes of this server and draws what they say. All text goes in as text, never as HTML.
"use strict";

const POLL_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";
const BOX = { width: 168, height: 34, across: 60, down: 12, margin: 12 };

const byId = (id) => document.getElementById(id);
const number = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
const rate = (r) => (r === 0 ? "0" : r < 10 ? r.toFixed(1) : number(Math.round(r))) + "/s";
const duration = (us) => (us < 1000 ? us + " µs" : (us / 1000).toFixed(1) + " ms");
const time = (ms) => (ms < 0 ? "–" : new Date(ms).toISOString());

function rows(id, cells) {
  byId(id).replaceChildren(...cells.map((row) => {
    const tr = document.createElement("tr");
    for (const cell of row) {
      const td = document.createElement("td");
      td.textContent = typeof cell === "number" ? number(cell) : cell;
      if (typeof cell === "number") td.className = "number";
      tr.append(td);
    }
    return tr;
  }));
}

// The layer of a node is the longest way to it from a node without inputs. Topics close cycles between
// sub-topologies; an edge back to a node that is still being visited is left out of the count.
function layers(nodes, edges) {
  const inputs = new Map(nodes.map((n) => [n.id, []]));
  for (const e of edges) if (inputs.has(e.from) && inputs.has(e.to)) inputs.get(e.to).push(e.from);
  const layer = new Map();
  const open = new Set();
  const visit = (id) => {
    if (layer.has(id)) return layer.get(id);
    if (open.has(id)) return -1;
    open.add(id);
    const depth = Math.max(-1, ...inputs.get(id).map(visit)) + 1;
    open.delete(id);
    layer.set(id, depth);
    return depth;
  };
  nodes.forEach((n) => visit(n.id));
  return layer;
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const short = (text) => (text.length > 26 ? text.slice(0, 12) + "…" + text.slice(-13) : text);

function draw(graph) {
  const nodes = graph.nodes.filter((n) => n.kind !== "store");
  const known = new Set(nodes.map((n) => n.id));
  const edges = graph.edges.filter((e) => known.has(e.from) && known.has(e.to));
  const layer = layers(nodes, edges);
  const filled = [];
  const place = new Map();
  for (const node of nodes) {
    const column = layer.get(node.id);
    const row = (filled[column] = (filled[column] ?? 0) + 1) - 1;
    place.set(node.id, {
      x: BOX.margin + column * (BOX.width + BOX.across),
      y: BOX.margin + row * (BOX.height + BOX.down),
    });
  }
  const width = filled.length * (BOX.width + BOX.across) + BOX.margin;
  const height = Math.max(1, ...filled.map((n) => n ?? 0)) * (BOX.height + BOX.down) + BOX.margin;
  const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const rates = new Map(nodes.map((n) => [n.id, n.rate ?? 0]));
  for (const e of edges) {
    const [from, to] = [place.get(e.from), place.get(e.to)];
    const [x1, y1] = [from.x + BOX.width, from.y + BOX.height / 2];
    const [x2, y2] = [to.x, to.y + BOX.height / 2];
    const bend = Math.max(30, Math.abs(x2 - x1) / 2);
    const busy = Math.max(rates.get(e.from), rates.get(e.to)) > 0;
    const d = `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
    svg.append(element("path", { d, class: busy ? "busy" : "" }));
  }
  for (const node of nodes) {
    const { x, y } = place.get(node.id);
    const kind = node.kind === "topic" ? "topic" : "operator";
    const g = element("g", { class: kind + (node.rate > 0 ? " busy" : "") });
    const about = node.stores?.length ? `${node.name}\nstores: ${node.stores.join(", ")}` : node.name;
    g.append(element("title", {}, about));
    const rounded = kind === "topic" ? BOX.height / 2 : 4;
    g.append(element("rect", { x, y, width: BOX.width, height: BOX.height, rx: rounded }));
    g.append(element("text", { x: x + 8, y: y + 14 }, short(node.name)));
    const below = kind === "topic" ? (node.internal ? "internal topic" : "topic")
      : `${rate(node.rate)}  ${node.kind}${node.stores.length ? " ⛁ " + short(node.stores.join(", ")) : ""}`;
    g.append(element("text", { x: x + 8, y: y + 27, class: "rate" }, below));
    svg.append(g);
  }
  byId("graph").replaceChildren(svg);
  byId("application").textContent = graph.application_id;
}

function showTasks({ health, threads }) {
  const badge = byId("health");
  badge.textContent = health;
  badge.className = "badge " + health;
  const tasks = threads.flatMap((t) => t.tasks).sort((a, b) => a.id.localeCompare(b.id));
  rows("threads", threads.map(({ index, commits: c }) => [String(index), c.count, c.aborts, c.rejoins,
    c.failed_records, duration(c.p50_us), duration(c.p99_us)]));
  rows("tasks", tasks.map((t) => [t.id, t.phase, t.records, t.buffered, t.dropped,
    t.restore_remaining, time(t.stream_time_ms)]));
  rows("stores", tasks.flatMap((t) => t.stores.map((s) => [s.name, t.id, s.position ?? "–", s.replayed]))
    .sort((a, b) => a[0].localeCompare(b[0])));
  byId("figures").textContent = `${threads.length} threads, ${tasks.length} tasks`;
}

function showLag({ lag, items }) {
  byId("lag-total").textContent = `${number(lag)} records behind`;
  rows("lag", items.map((i) => [i.topic, String(i.partition), i.position, i.end, i.lag,
    i.local ? "here" : "elsewhere"]));
}

async function poll(path, show) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  show(await response.json());
}

async function round() {
  const results = await Promise.allSettled([poll("topology", draw), poll("tasks", showTasks),
    poll("lag", showLag)]);
  if (results[1].status === "rejected") {
    byId("health").textContent = "no answer";
    byId("health").className = "badge lost";
  }
  setTimeout(round, POLL_MS);
}

round();
