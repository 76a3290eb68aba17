// The data map: dots on a canvas, coloured by what is chosen; a line drawn round some of them shows their rows.
const [X, Y, SPLIT, NUMBER, WRONG, SUREST, GIVEN, TEXT, LENGTH, CONFIDENCE, VARIABILITY, KIND] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], SIDE = 1000, MARGIN = 12;
const TRAIN = 0, DEV = 1, UNLABELLED = 2, KINDS = ["easy", "ambiguous", "hard"], WHOLE = 1000, WIDEST = 500;  // tenths of %: the most, and what a probability varies at most
const byTraining = () => byId("map-place") && byId("map-place").value;
const canvas = byId("map-canvas"), pen = canvas.getContext("2d"), css = name => getComputedStyle(document.body).getPropertyValue(name).trim();
const rootOf = point => point[SPLIT] === UNLABELLED ? "unlabelled" : point[GIVEN].length ? data.labels[point[GIVEN][0]].split(SEPARATOR)[0] : "no label";
const hues = [215, 25, 150, 330, 265, 50, 185, 0, 95, 300];
let line = [], inside = [];
const often = {};
for (const point of data.points) often[rootOf(point)] = (often[rootOf(point)] || 0) + 1;
const roots = Object.keys(often).sort((a, b) => often[b] - often[a]).slice(0, hues.length);
const unlabelled = data.points.some(point => point[SPLIT] === UNLABELLED) ? [["--muted", "unlabelled"]] : [];
const keys = {
  error: () => [["--miss", "wrong"], ["--line", "right"], ...unlabelled],
  suspicion: () => [["--miss", "by 80 % or more"], ["--extra", "by 50 % or more"], ["--line", "less"], ...unlabelled],
  split: () => [["--c1", "dev"], ["--c2", "train"], ...unlabelled],
  kind: () => [["--miss", "hard"], ["--extra", "ambiguous"], ["--c1", "easy"], ["--line", "not known"]],
  label: () => [...roots.map((root, i) => [`hsl(${hues[i]} 60% 52%)`, root]), ["--muted", "others"]],
};
function kindOf(point) {
  const by = byId("map-colour").value;
  if (by === "kind") return point[KIND] === undefined ? 3 : 2 - point[KIND];
  if (by !== "label" && point[SPLIT] === UNLABELLED) return keys[by]().length - 1;
  if (by === "error") return point[WRONG] ? 0 : 1;
  if (by === "suspicion") return point[SUREST] >= 80 ? 0 : point[SUREST] >= 50 ? 1 : 2;
  if (by === "split") return point[SPLIT] === DEV ? 0 : 1;
  return roots.includes(rootOf(point)) ? roots.indexOf(rootOf(point)) : roots.length;
}
const colour = name => name.startsWith("--") ? css(name) : name;
const shares = point => byTraining() ? [point[VARIABILITY] / WIDEST, 1 - point[CONFIDENCE] / WHOLE] : [point[X] / SIDE, 1 - point[Y] / SIDE];
const place = point => shares(point).map((share, i) => MARGIN + share * ((i ? canvas.clientHeight : canvas.clientWidth) - 2 * MARGIN));
function isShown(point) {
  const rows = byId("map-split").value, isKnown = point[KIND] !== undefined;
  if (byTraining() && !isKnown) return false;
  return !rows || (KINDS.includes(rows) ? isKnown && KINDS[point[KIND]] === rows : point[SPLIT] === Number(rows));
}
function draw() {
  const scale = devicePixelRatio || 1, key = keys[byId("map-colour").value](), colours = key.map(pair => colour(pair[0]));
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  pen.scale(scale, scale);
  const kinds = data.points.filter(isShown).map(point => [kindOf(point), point]).sort((a, b) => b[0] - a[0]);  // what matters most on top
  for (const [kind, point] of kinds) {
    pen.fillStyle = colours[kind];
    pen.beginPath();
    pen.arc(...place(point), point[SPLIT] === DEV ? 3.5 : 2, 0, 7);
    pen.fill();
  }
  if (byTraining()) {
    pen.fillStyle = css("--muted");
    pen.fillText("↑ confidence", MARGIN, 2 * MARGIN);
    pen.textAlign = "right";
    pen.fillText("variability →", canvas.clientWidth - MARGIN, canvas.clientHeight - MARGIN);
  }
  pen.strokeStyle = css("--text");
  pen.beginPath();
  line.forEach(spot => pen.lineTo(...spot));
  pen.closePath();
  pen.stroke();
  byId("map-key").replaceChildren(...key.map(([name, text]) => {
    const dot = element("span", "dot");
    dot.style.background = colour(name);
    return element("span", "key", dot, ` ${text}`);
  }));
}
function isInside([x, y]) {  // by the number of times that a ray crosses the line
  let odd = false;
  line.forEach(([x1, y1], i) => {
    const [x2, y2] = line[(i + 1) % line.length];
    if (y1 > y !== y2 > y && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1) odd = !odd;
  });
  return odd;
}
const keyOf = point => `${OF_SPLIT[point[SPLIT]]}${point[NUMBER]}`;
for (const point of data.points) {  // rows that are not among the wrong ones are ticked and shown as those are
  const flat = point[GIVEN].flatMap(label => [label, RIGHT, null]);
  const told = point[KIND] === undefined ? "" : `, ${KINDS[point[KIND]]}: confidence ${Math.round(point[CONFIDENCE] / 10)}\u00a0%, variability ${Math.round(point[VARIABILITY] / 10)}\u00a0%`;
  if (!byRow.has(keyOf(point))) byRow.set(keyOf(point), [point[NUMBER], point[TEXT], flat, point[LENGTH], OF_SPLIT[point[SPLIT]], told]);
}
function showInside() {
  const asked = byId("map-split").value, all = !line.length && KINDS.includes(asked);  // those of a kind need no line
  const rank = {hard: point => -point[CONFIDENCE], ambiguous: point => point[VARIABILITY]}[asked] || (point => point[SUREST]);
  inside = data.points.filter(point => isShown(point) && (all || isInside(place(point)))).sort((a, b) => rank(b) - rank(a)).map(point => byRow.get(keyOf(point)));
  const first = {hard: "that the model believed least", ambiguous: "that varied most"}[asked] || "that the model contradicts most";
  byId("map-count").textContent = all || line.length ? `${inside.length} rows${inside.length > SHOWN ? `, the ${SHOWN} ${first} are shown` : ""}` : "";
  byId("map-tick").hidden = !inside.length;
  byId("map-list").replaceChildren(...inside.slice(0, SHOWN).map(caseOf));
  showTicks();
}
canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); line = [[event.offsetX, event.offsetY]]; });
canvas.addEventListener("pointermove", event => { if (canvas.hasPointerCapture(event.pointerId)) { line.push([event.offsetX, event.offsetY]); draw(); } });
canvas.addEventListener("pointerup", () => { draw(); showInside(); });
byId("map-tick").addEventListener("click", () => { inside.filter(whole).forEach(row => ticked.add(row)); showTicks(); });
for (const id of ["map-colour", "map-split"]) byId(id).addEventListener("input", () => { draw(); showInside(); });
if (byId("map-place")) byId("map-place").addEventListener("input", () => { line = []; byId("map-colour").value = byTraining() ? "kind" : "error"; draw(); showInside(); });
addEventListener("resize", () => { line = []; draw(); showInside(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
