"use strict";
// The page: what is chosen, in which colours it is shown, and what is said of a vertex.

const NUMBERS = { int16: Int16Array, uint16: Uint16Array, uint8: Uint8Array, float32: Float32Array, uint32: Uint32Array };
const byId = (id) => document.getElementById(id);
const decode = ({ type, bytes }) => new NUMBERS[type](Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer);
const data = JSON.parse(byId("data").textContent);
const luts = Object.fromEntries(Object.entries(data.luts).map(([name, lut]) => [name, decode(lut)]));
const rowMember = decode(data.member), rowVertex = decode(data.vertex), allFaces = decode(data.faces);
const SIDES = ["Left", "Right"];
const signed = (x, digits = 3) => x.toFixed(digits).replace("-", "−");

const hemis = data.hemis.map((packed) => {
  const row = decode(packed.row), kept = decode(packed.flat_faces);
  const flat2 = decode(packed.flat), flat = new Float32Array(row.length * 3);
  for (let v = 0; v < row.length; v++) for (let k = 0; k < 2; k++) flat[3 * v + k] = flat2[2 * v + k] / data.per_mm;
  return {
    points: Float32Array.from(decode(packed.points), (x) => x / data.per_mm),
    flat,
    faces: allFaces,
    flatFaces: allFaces.filter((_, i) => kept[Math.floor(i / 3) >> 3] >> (Math.floor(i / 3) & 7) & 1),
    grey: decode(packed.grey),
    row,
    member: Uint32Array.from(row, (r) => (r < 0 ? 0 : rowMember[r])),
    every: Uint16Array.from(row, (_, v) => v),
  };
});
const backbones = data.backbones.map((b) => {
  const weight = decode(b.weight), n = b.layers.length;
  const ofLayer = b.layers.map((layer, i) => ({
    id: `weight ${i}`, name: `Weight of layer ${layer}`, unit: "weight (those of all layers sum to 1)",
    scale: "inferno", low: 0, high: 1, values: Float32Array.from(rowVertex, (_, r) => weight[r * n + i] / 65535),
  }));
  return { ...b, weight, maps: [...b.maps.map((map) => ({ ...map, values: decode(map.values) })), ...ofLayer] };
});

const canvas = byId("brain");
const scene = new Scene(canvas, hemis);
const chosen = { backbone: backbones[0], map: null, picked: null, hemi: 0 };
const valueOf = (backbone, id, row) => backbone.maps.find((map) => map.id === id)?.values[row];

// Colours

function fromLut(name, share) {
  const at = 3 * Math.round(255 * Math.min(1, Math.max(0, share)));
  return luts[name].slice(at, at + 3);
}

// The layer's hue, black at no confidence: as in the book's maps.
function layerColour(depth, confidence) {
  return fromLut("layer", depth).map((c) => c * Math.sqrt(Math.min(1, Math.max(0, confidence))));
}

const layersOf = (backbone) => backbone.layers.length;

function greatest(backbone, row) {
  const n = layersOf(backbone), some = backbone.weight.subarray(row * n, (row + 1) * n);
  return some.indexOf(Math.max(...some));
}

function colourOf(map, row) {
  const { backbone } = chosen, value = map.values[row];
  if (!Number.isFinite(value)) return null;
  if (map.scale === "layer2d")
    return layerColour(greatest(backbone, row) / Math.max(layersOf(backbone) - 1, 1), value);
  if (map.scale === "category") return luts.category.slice(3 * value, 3 * value + 3);
  return fromLut(map.scale, (value - map.low) / (map.high - map.low));
}

function recolour() {
  const rows = rowVertex.length, colours = Array.from({ length: rows }, (_, r) => colourOf(chosen.map, r));
  hemis.forEach((hemi, i) => {
    const out = new Uint8Array(4 * hemi.row.length);
    hemi.row.forEach((r, v) => {
      const grey = hemi.grey[v];
      out.set(r >= 0 && colours[r] ? [...colours[r], 255] : [grey, grey, grey, 255], 4 * v);
    });
    scene.paint(i, out);
  });
}

function drawBar() {
  const { map, backbone } = chosen, bar = byId("bar"), ratio = window.devicePixelRatio || 1;
  const two = map.scale === "layer2d", n = two ? layersOf(backbone) : map.scale === "category" ? map.high + 1 : 256;
  const width = bar.clientWidth || 320, tall = two ? 60 : 16, left = two ? 28 : 4;
  bar.style.height = `${tall + 20}px`;
  [bar.width, bar.height] = [width * ratio, (tall + 20) * ratio];
  const ctx = bar.getContext("2d");
  ctx.scale(ratio, ratio);
  const step = (width - left - 12) / n;
  for (let i = 0; i < n; i++) for (let j = 0; j < (two ? 30 : 1); j++) {
    const c = two ? layerColour(i / Math.max(n - 1, 1), j / 29)
      : map.scale === "category" ? luts.category.slice(3 * i, 3 * i + 3) : fromLut(map.scale, i / 255);
    ctx.fillStyle = `rgb(${c[0]},${c[1]},${c[2]})`;
    if (two) ctx.fillRect(left + i * step, tall - (j + 1) * 2, step + 1, 2);
    else ctx.fillRect(left + i * step, 0, step + 1, tall);
  }
  ctx.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  ctx.font = "11px system-ui, sans-serif";
  ctx.textAlign = "center";
  const middle = (i) => left + (i + 0.5) * step;
  if (two || map.scale === "category")
    for (let i = 0; i < n; i += Math.ceil(n / 14)) ctx.fillText(i + 1, middle(i), tall + 14);
  else [0, 0.5, 1].forEach((s, i) => {
    ctx.textAlign = ["left", "center", "right"][i];
    ctx.fillText(signed(map.low + s * (map.high - map.low), 2), left + s * (width - left - 12), tall + 14);
  });
  ctx.textAlign = "right";
  if (two) ["0", "1"].forEach((s, i) => ctx.fillText(s, left - 6, i ? 9 : tall));
  byId("unit").textContent = map.unit;
}

// The picture

// The vertex in the middle of each area, which carries its name.
const nameTags = hemis.flatMap((hemi, i) => data.areas.map((area, bit) => {
  const members = [...hemi.every].filter((v) => hemi.member[v] >> bit & 1);
  if (!members.length) return null;
  const mean = [0, 1, 2].map((k) => members.reduce((s, v) => s + hemi.points[3 * v + k], 0) / members.length);
  const away = (v) => Math.hypot(...mean.map((m, k) => hemi.points[3 * v + k] - m));
  const tag = document.createElement("span");
  tag.textContent = area;
  byId("names").append(tag);
  return { hemi: i, vertex: members.reduce((a, b) => (away(b) < away(a) ? b : a)), tag };
})).filter(Boolean);

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const style = getComputedStyle(document.documentElement).getPropertyValue("--stage").trim();
    const background = [1, 3, 5].map((i) => parseInt(style.slice(i, i + 2), 16) / 255);
    const outlines = byId("outlines").checked;
    scene.draw(outlines, background);
    const half = canvas.clientWidth / 2, taken = [];
    for (const { hemi, vertex, tag } of nameTags) {
      const [x, y] = scene.project(hemi, [vertex]);
      const inside = x > hemi * half + 12 && x < (hemi + 1) * half - 12;
      const clear = taken.every(([a, b]) => Math.abs(a - x) > 34 || Math.abs(b - y) > 13);
      tag.hidden = !(outlines && inside && clear && scene.facing(hemi, vertex) > 0.25);
      if (!tag.hidden) taken.push([x, y]);
      [tag.style.left, tag.style.top] = [`${x}px`, `${y}px`];
    }
    const ring = byId("ring"), { picked } = chosen;
    ring.hidden = !picked || scene.facing(picked.hemi, picked.vertex) < 0;
    if (picked) {
      const [x, y] = scene.project(picked.hemi, [picked.vertex]);
      ring.hidden ||= x < picked.hemi * half || x > (picked.hemi + 1) * half;
      [ring.style.left, ring.style.top] = [`${x}px`, `${y}px`];
    }
    const cross = byId("crosshair").style;
    [cross.left, cross.top] = [`${half * (chosen.hemi + 0.5)}px`, `${canvas.clientHeight / 2}px`];
  });
}

// What is said of a vertex

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawProfile(row) {
  const { backbone } = chosen, n = layersOf(backbone), svg = byId("profile");
  const weights = [...backbone.weight.subarray(row * n, (row + 1) * n)].map((w) => w / 65535);
  const tall = 16, top = Math.max(...weights);
  svg.setAttribute("viewBox", `0 0 220 ${n * tall}`);
  svg.setAttribute("aria-label", weights.map((w, i) => `layer ${backbone.layers[i]}: ${signed(w)}`).join(", "));
  svg.replaceChildren(...weights.flatMap((w, i) => {
    const c = layerColour(i / Math.max(n - 1, 1), 1);
    return [
      element("text", { x: 38, y: i * tall + 12, "text-anchor": "end" }, backbone.layers[i]),
      element("rect", { x: 44, y: i * tall + 3, width: 130 * w / top, height: tall - 5, fill: `rgb(${c.join(",")})`, stroke: "var(--line)", "stroke-width": 0.5 }),
      element("text", { x: 48 + 130 * w / top, y: i * tall + 12, "data-weight": i }, signed(w)),
    ];
  }));
}

function drawPlace(x, y) {
  const svg = byId("place");
  svg.setAttribute("aria-label", `Place in the picture: x ${signed(x, 2)}, y ${signed(y, 2)}, from −1 to 1, y downwards`);
  const parts = [element("rect", { x: -1, y: -1, width: 2, height: 2, fill: "var(--stage)", stroke: "var(--line)", "stroke-width": 0.02 })];
  if (data.picture) parts.push(element("image", { href: data.picture, x: -1, y: -1, width: 2, height: 2, preserveAspectRatio: "none" }));
  for (const [ink, width] of [["#fff", 0.09], ["#000", 0.045]]) {
    const line = (a) => element("path", { d: a, stroke: ink, "stroke-width": width, fill: "none" });
    parts.push(line(`M${x - 0.13} ${y}h0.26M${x} ${y - 0.13}v0.26`));
  }
  svg.replaceChildren(...parts);
}

const sideWord = (value, less, more) => `${signed(Math.abs(value), 2)} ${value < 0 ? less : more}`;

function tell() {
  const { picked, backbone } = chosen;
  if (!picked) return;
  const row = hemis[picked.hemi].row[picked.vertex];
  const panel = byId("panel");
  panel.dataset.hemi = picked.hemi ? "rh" : "lh";
  panel.dataset.vertex = row < 0 ? "" : rowVertex[row];
  if (row < 0) {
    byId("said").textContent = `${SIDES[picked.hemi]} hemisphere: there are no data at this vertex.`;
    for (const id of ["facts", "profile", "place"]) byId(id).replaceChildren();
    return;
  }
  const get = (id) => valueOf(backbone, id, row);
  const rois = data.areas.filter((_, bit) => rowMember[row] >> bit & 1).join(", ") || "none of the named ones";
  const layer = backbone.layers[greatest(backbone, row)], n = layersOf(backbone);
  const facts = [
    ["vertex", "Vertex", `${SIDES[picked.hemi].toLowerCase()}, ${rowVertex[row]}`],
    ["roi", "ROI", rois],
    ["r2", "Score, R² of single trials", signed(get("r2"))],
    ["ceiling", "Noise ceiling", signed(get("ceiling"))],
    ["layer", "Layer of greatest weight", `${layer} of ${n}`],
    ["depth", "Expected layer (0 first, 1 last)", signed(get("depth"))],
    ["confidence", "Confidence (0 to 1)", signed(get("layer"))],
    ["scale", "Scale (0 local, 1 global)", signed(get("scale"))],
    ["x", "Place, x (−1 left, 1 right)", signed(get("x"))],
    ["y", "Place, y (−1 top, 1 bottom)", signed(get("y"))],
  ];
  if (get("size") !== undefined)
    facts.push(["size", "Receptive field (0 a point, 1 blurred)", signed(get("size"))]);
  if (get("cluster") !== undefined) facts.push(["cluster", "Channel cluster", String(get("cluster") + 1)]);
  byId("facts").replaceChildren(...facts.flatMap(([field, name, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = text;
    dd.dataset.field = field;
    return [dt, dd];
  }));
  byId("said").textContent = `${SIDES[picked.hemi]} hemisphere, vertex ${rowVertex[row]}, ROI: ${rois}. `
    + `${backbone.name}: layer ${layer} of ${n} with confidence ${signed(get("layer"), 2)}, scale ${signed(get("scale"), 2)}, `
    + `place ${sideWord(get("x"), "left", "right")} and ${sideWord(get("y"), "up", "down")}, `
    + `R² ${signed(get("r2"))} of a ceiling of ${signed(get("ceiling"))}.`;
  drawProfile(row);
  drawPlace(get("x"), get("y"));
}

function pick(found) {
  if (!found) return;
  chosen.picked = found;
  chosen.hemi = found.hemi;
  tell();
  redraw();
}

// Controls

function fill(select, items) {
  select.replaceChildren(...items.map(([value, text]) => new Option(text, value)));
}

function choose() {
  const select = byId("map"), before = select.value || "layer";
  chosen.backbone = backbones[byId("backbone").value];
  fill(select, chosen.backbone.maps.map((map) => [map.id, map.name]));
  select.value = chosen.backbone.maps.some((map) => map.id === before) ? before : "layer";
  chosen.map = chosen.backbone.maps.find((map) => map.id === select.value);
  canvas.setAttribute("aria-label", `Cortex, left and right hemisphere: ${chosen.map.name} of ${chosen.backbone.name}`);
  recolour();
  drawBar();
  tell();
  redraw();
}

function view(name) {
  scene.look(name);
  pressed(name);
  redraw();
}

function pressed(name) {
  for (const button of document.querySelectorAll("[data-view]"))
    button.setAttribute("aria-pressed", String(button.dataset.view === name));
}

function move(dx, dy, hemi) {
  scene.drag(dx, dy, hemi);
  if (!scene.isFlat) pressed(null);
  redraw();
}

fill(byId("backbone"), backbones.map((b, i) => [i, b.name]));
byId("backbone").addEventListener("change", choose);
byId("map").addEventListener("change", choose);
byId("outlines").addEventListener("change", redraw);
for (const button of document.querySelectorAll("[data-view]"))
  button.addEventListener("click", () => view(button.dataset.view));
for (const button of document.querySelectorAll("[data-zoom]"))
  button.addEventListener("click", () => { scene.magnify(+button.dataset.zoom); redraw(); });

const pointers = new Map();
let moved = 0, start = 0;
const within = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const spread = () => {
  const [[a, b], [c, d]] = [...pointers.values()];
  return Math.hypot(a - c, b - d);
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!pointers.size) {
    moved = 0;
    start = within(event)[0] < canvas.clientWidth / 2 ? 0 : 1;
  }
  pointers.set(event.pointerId, within(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) return;
  const [x, y] = within(event), [a, b] = pointers.get(event.pointerId);
  const before = pointers.size > 1 ? spread() : 0;
  pointers.set(event.pointerId, [x, y]);
  moved += Math.abs(x - a) + Math.abs(y - b);
  if (pointers.size > 1) { scene.magnify(spread() / (before || 1)); redraw(); }
  else if (moved > 4) move(x - a, y - b, start);
});
canvas.addEventListener("pointerup", (event) => {
  if (pointers.delete(event.pointerId) && moved <= 4) pick(scene.at(...within(event)));
});
canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== canvas) return;  // or the page could not be scrolled past
  event.preventDefault();
  scene.magnify(Math.exp(-event.deltaY / 500));
  redraw();
}, { passive: false });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key], { picked } = chosen;
  if (arrow && event.shiftKey && picked) {
    const vertex = scene.next(picked.hemi, picked.vertex, ...arrow);
    if (vertex !== null) pick({ hemi: picked.hemi, vertex });
  } else if (arrow) move(12 * arrow[0], 12 * arrow[1], chosen.hemi);
  else if (event.key === "+" || event.key === "=") { scene.magnify(1.25); redraw(); }
  else if (event.key === "-") { scene.magnify(0.8); redraw(); }
  else if (event.key === "h" || event.key === "H") { chosen.hemi = 1 - chosen.hemi; redraw(); }
  else if (event.key === "Enter" || event.key === " ")
    pick(scene.at(canvas.clientWidth * (chosen.hemi + 0.5) / 2, canvas.clientHeight / 2));
  else return;
  event.preventDefault();
});

// Light or dark: as the page around this one, else as the reader's system.
const dark = matchMedia("(prefers-color-scheme: dark)");
let around = null;
try {
  around = parent === window ? null : parent.document.documentElement;
} catch { /* a page from elsewhere, which may not be asked */ }
function theme() {
  const asked = around?.dataset.theme;
  document.documentElement.dataset.theme = asked === "light" || asked === "dark" ? asked : dark.matches ? "dark" : "light";
  if (chosen.map) { drawBar(); redraw(); }
}
theme();
dark.addEventListener("change", theme);
if (around && window.frameElement) {  // as high as it needs, so that it never scrolls in itself
  const main = document.querySelector("main");
  new ResizeObserver(() => { window.frameElement.style.height = `${main.offsetHeight + 4}px`; }).observe(main);
}
if (around) new MutationObserver(theme).observe(around, { attributes: true, attributeFilter: ["data-theme"] });
new ResizeObserver(() => { if (chosen.map) drawBar(); redraw(); }).observe(canvas);

byId("nothing").hidden = Boolean(scene.gl);
canvas.hidden = !scene.gl;
view("posterior");
choose();
if (nameTags.length) pick({ hemi: nameTags[0].hemi, vertex: nameTags[0].vertex });  // a first one to read
