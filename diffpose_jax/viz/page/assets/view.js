"use strict";
// What is shown now, who wants to know when it changes, and the colours.

const view = {
  frame: 0,
  playing: false,
  speed: 1,
  person: -1, // -1: everybody
  hypothesis: -1, // -1: the aggregate
  show: "hypotheses",
  colour: "uncertainty",
  joint: 0,
  quantity: "z",
  follow: false,
  keypoints: true,
  reprojection: false,
};
const watchers = [];

/** Calls back with the names of what changed. */
function watch(callback) {
  watchers.push(callback);
}

function change(values) {
  const names = Object.keys(values).filter((name) => view[name] !== values[name]);
  if (!names.length) return;
  Object.assign(view, values);
  for (const callback of watchers) callback(new Set(names));
}

const SHOWN = [
  ["hypotheses", "hypotheses as skeletons"],
  ["regions", "50 and 90 % regions"],
  ["ellipsoids", "ellipsoids of the hypotheses"],
  ["none", "colours only"],
];
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const LEFT = "#d1495b";
const RIGHT = "#3d8fc4";
const MIDDLE = "#8a919c";
const UNKNOWN = "#999999";

/** A scale of colours over 0..top; `css(mm)` is a colour of the page, `linear(mm)` [r, g, b] of the 3D scene. */
class ColourScale {
  constructor({ stops, top, label }, steps = 64) {
    Object.assign(this, { stops, top, label, steps });
    const channels = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
    this.table = Array.from({ length: steps + 1 }, (_, step) => {
      const at = (step / steps) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      const mixed = channels[low].map((c, i) => Math.round(c + (channels[low + 1][i] - c) * (at - low)));
      return "#" + mixed.map((c) => c.toString(16).padStart(2, "0")).join("");
    });
  }

  css(value) {
    if (!Number.isFinite(value)) return UNKNOWN;
    return this.table[Math.round(Math.min(Math.max(value / this.top, 0), 1) * this.steps)];
  }
}

const linearColours = new Map();

/** A css colour as the 3D scene's [r, g, b]. */
function toLinear(css) {
  let found = linearColours.get(css);
  if (!found) linearColours.set(css, (found = new THREE.Color(css).toArray()));
  return found;
}

/** The colour of a joint as the choice `view.colour` has it. */
function jointColour(person, row, joint, scale) {
  if (view.colour === "side") return person.left.has(joint) ? LEFT : person.right.has(joint) ? RIGHT : MIDDLE;
  return scale.css(person.uncertainty[row * person.joints.length + joint]);
}

/** The people who are shown, with the row of the current frame. */
function shownPeople(video) {
  return video.people
    .map((person, index) => ({ person, index, row: person.row(view.frame) }))
    .filter(({ index, row }) => row >= 0 && (view.person < 0 || view.person === index));
}

/** The person that the plot and the table are about: the chosen one, or the first. */
function chosenPerson(video) {
  return video.people[Math.max(view.person, 0)];
}

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A canvas's 2D context whose unit is a pixel of the page, cleared; null while it has no size. */
function clearCanvas(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const density = Math.min(window.devicePixelRatio || 1, 2);
  if (!width || !height) return null;
  const [wide, high] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
