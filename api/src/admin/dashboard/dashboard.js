// Polls the JSON routes of this server and draws what they say. All text goes in as text, never as HTML.
"use strict";

const POLL_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";
const BOX = { width: 168, height: 34, across: 48, down: 12, margin: 12, title: 26 };

const byId = (id) => document.getElementById(id);
const number = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
const rate = (r) => (r === 0 ? "0" : r < 10 ? r.toFixed(1) : number(Math.round(r))) + "/s";
const duration = (us) => (us < 1000 ? us + " µs" : (us / 1000).toFixed(1) + " ms");
const ago = (ms) => (ms === null ? "not yet" : ms < 1000 ? ms + " ms ago" : number(Math.round(ms / 1000)) + " s ago");
const time = (ms) => (ms < 0 ? "–" : new Date(ms).toISOString());

function rows(id, cells) {
  byId(id).replaceChildren(...cells.map((row) => {
    const tr = document.createElement("tr");
    for (const cell of row) {
      const td = document.createElement("td");
      td.textContent = typeof cell === "number" ? number(cell) : cell;
      tr.append(td);
    }
    return tr;
  }));
}

// As `rows`, in a section that is hidden while it has nothing to tell.
function section(id, cells) {
  rows(id, cells);
  byId(id).closest("section").hidden = cells.length === 0;
}

// The layer of a node is the longest way to it from a node without inputs.
function layers(nodes, edges) {
  const inputs = new Map(nodes.map((n) => [n.id, []]));
  for (const e of edges) inputs.get(e.to).push(e.from);
  const layer = new Map();
  const visit = (id) => {
    if (!layer.has(id)) layer.set(id, Math.max(-1, ...inputs.get(id).map(visit)) + 1);
    return layer.get(id);
  };
  nodes.forEach((n) => visit(n.id));
  return layer;
}

// One band for each sub-topology, with the topics it reads at its left and those it writes at its right. A topic
// stands in every band that it touches: drawn once, topics would tie all bands into one knot.
function bands(graph) {
  const byNode = new Map(graph.nodes.map((n) => [n.id, n]));
  const operators = graph.nodes.filter((n) => n.kind !== "topic" && n.kind !== "store");
  const numbers = [...new Set(operators.map((n) => n.subtopology))].sort((a, b) => a - b);
  return numbers.map((number) => {
    const nodes = operators.filter((n) => n.subtopology === number);
    const here = new Set(nodes.map((n) => n.id));
    const edges = [];
    const topics = new Map();
    for (const e of graph.edges) {
      const [from, to] = [byNode.get(e.from), byNode.get(e.to)];
      if (here.has(e.from) && here.has(e.to)) edges.push(e);
      if (from?.kind === "topic" && here.has(e.to)) {
        topics.set("in:" + e.from, { ...from, id: "in:" + e.from });
        edges.push({ from: "in:" + e.from, to: e.to });
      }
      if (to?.kind === "topic" && here.has(e.from)) {
        topics.set("out:" + e.to, { ...to, id: "out:" + e.to });
        edges.push({ from: e.from, to: "out:" + e.to });
      }
    }
    return { number, nodes: [...nodes, ...topics.values()], edges };
  });
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const short = (text) => (text.length > 26 ? text.slice(0, 12) + "…" + text.slice(-13) : text);

function edge(from, to, busy) {
  const [x1, y1] = [from.x + BOX.width, from.y + BOX.height / 2];
  const [x2, y2] = [to.x, to.y + BOX.height / 2];
  const bend = Math.max(30, (x2 - x1) / 2);
  const d = `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
  return element("path", { d, class: busy ? "busy" : "" });
}

function box(node, { x, y }) {
  const topic = node.kind === "topic";
  const g = element("g", { class: (topic ? "topic" : "operator") + (node.rate > 0 ? " busy" : "") });
  const stores = node.stores?.length ? `stores: ${node.stores.join(", ")}` : "";
  g.append(element("title", {}, [node.name, node.kind, stores].filter(Boolean).join("\n")));
  g.append(element("rect", { x, y, width: BOX.width, height: BOX.height, rx: topic ? BOX.height / 2 : 4 }));
  g.append(element("text", { x: x + 10, y: y + 14 }, short(node.name)));
  const below = topic ? (node.internal ? "internal topic" : "topic")
    : [rate(node.rate), node.kind, stores && `${node.stores.length} stores`].filter(Boolean).join("  ");
  g.append(element("text", { x: x + 10, y: y + 27, class: "rate" }, below));
  return g;
}

function draw(graph) {
  const svg = element("svg", {});
  let [top, width] = [0, 0];
  for (const { number, nodes, edges } of bands(graph)) {
    const layer = layers(nodes, edges);
    const filled = [];
    const place = new Map();
    for (const node of nodes) {
      const column = layer.get(node.id);
      const row = (filled[column] = (filled[column] ?? 0) + 1) - 1;
      place.set(node.id, {
        x: BOX.margin + column * (BOX.width + BOX.across),
        y: top + BOX.title + row * (BOX.height + BOX.down),
      });
    }
    svg.append(element("text", { x: BOX.margin, y: top + BOX.title - 8, class: "rate" }, `sub-topology ${number}`));
    const rates = new Map(nodes.map((n) => [n.id, n.rate ?? 0]));
    for (const e of edges) {
      const busy = Math.max(rates.get(e.from), rates.get(e.to)) > 0;
      svg.append(edge(place.get(e.from), place.get(e.to), busy));
    }
    nodes.forEach((node) => svg.append(box(node, place.get(node.id))));
    top += BOX.title + Math.max(...filled.map((n) => n ?? 0)) * (BOX.height + BOX.down);
    width = Math.max(width, filled.length * (BOX.width + BOX.across));
  }
  const [w, h] = [width + BOX.margin, top + BOX.margin];
  for (const [key, value] of Object.entries({ width: w, height: h, viewBox: `0 0 ${w} ${h}` })) {
    svg.setAttribute(key, value);
  }
  byId("graph").replaceChildren(svg);
  byId("application").textContent = graph.application_id;
}

function showTasks({ health, threads, threads_wanted: wanted, standbys }) {
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
  section("standbys", standbys.map((s) => [s.id, s.lag, ago(s.stale_ms),
    Object.entries(s.positions).map(([store, at]) => `${store} ${number(at)}`).join(", ")]));
  const copies = standbys.length ? `, ${standbys.length} standbys` : "";
  const of = threads.length === wanted ? "" : ` of ${wanted} wanted`;
  byId("figures").textContent = `${threads.length}${of} threads, ${tasks.length} tasks${copies}`;
}

// One instance alone is no news.
function showMembers({ items }) {
  const standbys = (m) => Object.entries(m.standbys).map(([task, lag]) => `${task} (${number(lag)})`).join(" ");
  section("members", items.length < 2 ? [] : items.map((m) => [m.instance_id, m.endpoint ?? "–",
    m.tasks.toSorted().join(" ") || "–", standbys(m) || "–"]));
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
    poll("lag", showLag), poll("members", showMembers)]);
  if (results[1].status === "rejected") {
    byId("health").textContent = "no answer";
    byId("health").className = "badge lost";
  }
  setTimeout(round, POLL_MS);
}

round();
