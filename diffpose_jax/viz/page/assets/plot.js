"use strict";
// A joint's coordinate or angle over time, with the bands that hold 50 and 90 % of the hypotheses.

const QUANTITIES = [
  ["z", "height above the floor", "m"],
  ["x", "x, along the floor", "m"],
  ["y", "y, along the floor", "m"],
  ["angle", "angle between its bones", "°"],
  ["uncertainty", "uncertainty", "mm"],
  ["error", "error", "mm"],
];
const BANDS = [[0.05, 0.95, 0.16], [0.25, 0.75, 0.26]];
const MARGIN = { left: 46, right: 10, top: 8, bottom: 22 };

/** Angle at a joint between its own bone and that of its first child, degrees; 180 is straight. */
function boneAngle(person, points, joint) {
  const [parent, child] = [person.parents[joint], person.parents.indexOf(joint)];
  if (parent < 0 || child < 0) return NaN;
  const arm = (end) => [0, 1, 2].map((i) => points[end * 3 + i] - points[joint * 3 + i]);
  const [u, v] = [arm(parent), arm(child)];
  const cosine = u.reduce((sum, value, i) => sum + value * v[i], 0) / (Math.hypot(...u) * Math.hypot(...v));
  return (Math.acos(Math.min(Math.max(cosine, -1), 1)) * 180) / Math.PI;
}

function quantityOf(person, row, joint, hypothesis, quantity) {
  if (quantity === "uncertainty") return person.uncertainty[row * person.joints.length + joint];
  if (quantity === "error") return person.error(row, joint, hypothesis);
  const points = person.positions(row, hypothesis);
  return quantity === "angle" ? boneAngle(person, points, joint) : points[joint * 3 + "xyz".indexOf(quantity)];
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

class Plot {
  constructor(video) {
    this.video = video;
    this.canvas = document.getElementById("plot-canvas");
    this.output = document.getElementById("plot-value");
    this.series = null;
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** Computes the curves of the chosen person, joint and quantity. */
  gather() {
    const person = chosenPerson(this.video);
    this.series = null;
    if (!person) return;
    const joint = Math.min(view.joint, person.joints.length - 1);
    const { quantity } = view;
    const alone = Math.min(view.hypothesis, person.hypothesisCount - 1);
    const values = (h) => Float32Array.from({ length: person.rows }, (_, row) => quantityOf(person, row, joint, h, quantity));
    const banded = person.hypothesisCount > 3 && quantity !== "uncertainty";
    const bands = BANDS.map(() => [new Float32Array(person.rows), new Float32Array(person.rows)]);
    for (let row = 0; banded && row < person.rows; row++) {
      const drawn = Float32Array.from({ length: person.hypothesisCount }, (_, h) => quantityOf(person, row, joint, h, quantity)).sort();
      BANDS.forEach(([low, high], i) => {
        bands[i][0][row] = quantile(drawn, low);
        bands[i][1][row] = quantile(drawn, high);
      });
    }
    const truth = person.truth && !["uncertainty", "error"].includes(quantity) ? values(-2) : null;
    this.series = { person, middle: values(-1), alone: alone >= 0 ? values(alone) : null, truth, bands: banded ? bands : [] };
    this.findRange();
    const lines = ["line: aggregate", banded && "bands: 50 and 90 % of the hypotheses", alone >= 0 && `thin: hypothesis ${alone + 1}`, truth && "dashed: truth"];
    document.getElementById("plot-legend").textContent = lines.filter(Boolean).join(" · ");
  }

  findRange() {
    const { middle, truth, bands, alone } = this.series;
    let [low, high] = [Infinity, -Infinity];
    for (const curve of [middle, truth, alone, ...(bands[0] ?? [])]) {
      for (const value of curve ?? []) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (!(low <= high)) [low, high] = [0, 1];
    const room = Math.max(0.06 * (high - low), { m: 0.02, "°": 2, mm: 5 }[unitOf(view.quantity)]);
    const fromZero = unitOf(view.quantity) === "mm";
    Object.assign(this.series, { low: fromZero ? 0 : low - room, high: high + room });
  }

  timeRange() {
    const { times } = this.video;
    return [times[0] ?? 0, Math.max(times[times.length - 1] ?? 1, (times[0] ?? 0) + 1e-3)];
  }

  /** The time at a place of the canvas. */
  timeAt(x) {
    const [from, to] = this.timeRange();
    const inner = this.canvas.clientWidth - MARGIN.left - MARGIN.right;
    return from + ((x - MARGIN.left) / inner) * (to - from);
  }

  draw() {
    const cleared = clearCanvas(this.canvas);
    if (!cleared || !this.series) return;
    const { context, width, height } = cleared;
    const [from, to] = this.timeRange();
    const { low, high, person, middle, truth, bands, alone } = this.series;
    const x = (time) => MARGIN.left + ((time - from) / (to - from)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => MARGIN.top + ((high - value) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    const place = (row) => x(this.video.times[person.frames[row]]);
    this.drawAxes(context, { width, height, x, y, low, high, from, to });
    const accent = themeColour("accent");
    bands.forEach(([below, above], i) => {
      context.globalAlpha = BANDS[i][2];
      context.fillStyle = accent;
      fillBand(context, person, place, (row) => y(below[row]), (row) => y(above[row]));
    });
    context.globalAlpha = 1;
    if (truth) strokeCurve(context, person, place, (row) => y(truth[row]), themeColour("truth"), 1.4, [5, 3]);
    strokeCurve(context, person, place, (row) => y(middle[row]), accent, 1.8);
    if (alone) strokeCurve(context, person, place, (row) => y(alone[row]), themeColour("ink"), 1);
    this.drawNow(context, { x, y, height });
  }

  drawAxes(context, { width, height, x, y, low, high, from, to }) {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = themeColour("soft");
    context.strokeStyle = themeColour("line");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const known = this.series.middle.some(Number.isFinite);
    for (const value of known ? roundTicks(low, high, 4) : []) {
      context.beginPath();
      context.moveTo(MARGIN.left, y(value));
      context.lineTo(width - MARGIN.right, y(value));
      context.stroke();
      context.fillText(showNumber(value), MARGIN.left - 5, y(value));
    }
    context.textAlign = "center";
    for (const value of roundTicks(from, to, 6)) context.fillText(`${showNumber(value)} s`, x(value), height - 8);
  }

  drawNow(context, { x, y, height }) {
    const { person, middle, bands, truth } = this.series;
    const row = person.row(view.frame);
    const now = x(this.video.times[view.frame] ?? 0);
    context.strokeStyle = themeColour("ink");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(now, MARGIN.top);
    context.lineTo(now, height - MARGIN.bottom);
    context.stroke();
    const unit = unitOf(view.quantity);
    const name = this.video.people.length > 1 ? `${person.name}: ` : "";
    if (row < 0 || !Number.isFinite(middle[row])) {
      const end = view.quantity === "angle" ? "no angle: it is not between two bones" : "not known";
      this.output.textContent = name + (row < 0 ? "not in this frame" : end);
      return;
    }
    context.fillStyle = themeColour("ink");
    context.beginPath();
    context.arc(now, y(middle[row]), 3.5, 0, 2 * Math.PI);
    context.fill();
    const digits = unit === "m" ? 2 : 0;
    const band = bands.length ? `, 90 %: ${bands[0][0][row].toFixed(digits)} to ${bands[0][1][row].toFixed(digits)}` : "";
    const known = truth && Number.isFinite(truth[row]) ? `, true ${truth[row].toFixed(digits)}` : "";
    this.output.textContent = `${name}${middle[row].toFixed(digits)} ${unit}${band}${known}`;
  }
}

function unitOf(quantity) {
  return QUANTITIES.find(([name]) => name === quantity)[2];
}

/** Runs of rows without a gap: where a person was away, the curve is interrupted. */
function* unbroken(person) {
  let start = 0;
  for (let row = 1; row <= person.rows; row++) {
    const step = person.rows > 1 ? person.frames[1] - person.frames[0] : 1;
    if (row === person.rows || person.frames[row] - person.frames[row - 1] > Math.max(2, 1.5 * step)) {
      yield [start, row];
      start = row;
    }
  }
}

function strokeCurve(context, person, x, y, colour, width, dash = []) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.lineJoin = "round";
  context.beginPath();
  for (const [start, end] of unbroken(person)) {
    let drawing = false;
    for (let row = start; row < end; row++) {
      const height = y(row);
      if (Number.isFinite(height)) drawing ? context.lineTo(x(row), height) : context.moveTo(x(row), height);
      drawing = Number.isFinite(height);
    }
  }
  context.stroke();
  context.setLineDash([]);
}

function fillBand(context, person, x, below, above) {
  for (const [start, end] of unbroken(person)) {
    context.beginPath();
    for (let row = start; row < end; row++) context.lineTo(x(row), above(row));
    for (let row = end - 1; row >= start; row--) context.lineTo(x(row), below(row));
    context.fill();
  }
}

function roundTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) ticks.push(value);
  return ticks;
}

function showNumber(value) {
  return String(Number(value.toFixed(3)));
}
