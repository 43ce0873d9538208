"use strict";
// Reading what the page was given: arrays from base64, and people as positions over frames. Lengths are metres, the
// world's z axis points up and the floor is at 0.

const ARRAYS = { int16: Int16Array, uint16: Uint16Array, uint8: Uint8Array, int32: Int32Array, float32: Float32Array };
const MISSING = { int16: -32768, uint16: 65535 };

function decodeBytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** The numbers of a packed array as Float32Array with NaN for what is missing, and its shape. */
function decodeArray(packed) {
  const stored = new ARRAYS[packed.kind](decodeBytes(packed.data).buffer);
  const missing = MISSING[packed.kind];
  const values = new Float32Array(stored.length);
  for (let i = 0; i < stored.length; i++) values[i] = stored[i] === missing ? NaN : stored[i] * packed.scale;
  return { values, shape: packed.shape };
}

/** One person; a row is one of the frames in which the person was found. */
class Person {
  constructor(described, frameCount, stride) {
    this.name = described.name;
    this.joints = described.joints;
    this.parents = described.parents;
    this.left = new Set(described.left);
    this.right = new Set(described.right);
    this.hypothesesMade = described.hypothesesMade;
    for (const name of ["root", "rootStd", "poses", "keypoints", "seen", "spread", "uncertainty", "frames"]) {
      this[name] = decodeArray(described[name]).values;
    }
    for (const name of ["radius50", "radius90", "truth"]) {
      this[name] = described[name] ? decodeArray(described[name]).values : null;
    }
    const hypotheses = decodeArray(described.hypotheses);
    this.hypotheses = hypotheses.values;
    this.hypothesisCount = hypotheses.shape[1];
    this.rows = this.frames.length;
    this.bones = this.parents.flatMap((parent, child) => (parent < 0 ? [] : [[child, parent]]));
    this.rowOfFrame = this.findRows(frameCount, stride);
  }

  /** The row of every frame of the video, -1 where the person is not in it; thinned frames show the one before. */
  findRows(frameCount, stride) {
    const found = new Int32Array(frameCount).fill(-1);
    this.frames.forEach((frame, row) => {
      const next = row + 1 < this.rows ? this.frames[row + 1] : Infinity;
      for (let f = frame; f < Math.min(frame + stride, next, frameCount); f++) found[f] = row;
    });
    return found;
  }

  row(frame) {
    return frame < this.rowOfFrame.length ? this.rowOfFrame[frame] : -1;
  }

  /** Positions [J * 3] of the aggregate (hypothesis -1), of one hypothesis, or of the truth (-2). */
  positions(row, hypothesis) {
    const count = this.joints.length * 3;
    const source = hypothesis === -2 ? this.truth : hypothesis < 0 ? this.poses : this.hypotheses;
    const from = hypothesis < 0 ? row * count : (row * this.hypothesisCount + hypothesis) * count;
    const placed = new Float32Array(count);
    for (let i = 0; i < count; i++) placed[i] = source[from + i] + this.root[row * 3 + (i % 3)];
    return placed;
  }

  /** Distance of a joint to the truth in mm, NaN where it is not known. */
  error(row, joint, hypothesis) {
    if (!this.truth) return NaN;
    const found = this.positions(row, hypothesis);
    const truth = this.positions(row, -2);
    const i = joint * 3;
    return 1000 * Math.hypot(found[i] - truth[i], found[i + 1] - truth[i + 1], found[i + 2] - truth[i + 2]);
  }

  /** Lower triangle [xx, xy, xz, yy, yz, zz] of the Cholesky factor of the hypotheses' covariance of one joint. */
  covarianceFactor(row, joint) {
    const count = this.hypothesisCount;
    if (count < 4) return null;
    const sums = new Float64Array(9);
    const stride = this.joints.length * 3;
    for (let h = 0; h < count; h++) {
      const at = (row * count + h) * stride + joint * 3;
      const [x, y, z] = [this.hypotheses[at], this.hypotheses[at + 1], this.hypotheses[at + 2]];
      [x, y, z, x * x, x * y, x * z, y * y, y * z, z * z].forEach((value, i) => (sums[i] += value / count));
    }
    const [mx, my, mz] = sums;
    const unbias = count / (count - 1);
    const second = [mx * mx, mx * my, mx * mz, my * my, my * mz, mz * mz].map((m, i) => (sums[3 + i] - m) * unbias);
    return factorise(second);
  }
}

/** The Cholesky factor of a symmetric matrix [xx, xy, xz, yy, yz, zz]; a millimetre is added where it is flat. */
function factorise([xx, xy, xz, yy, yz, zz]) {
  const least = 1e-6;
  const a = Math.sqrt(Math.max(xx, least));
  const [b, c] = [xy / a, xz / a];
  const d = Math.sqrt(Math.max(yy - b * b, least));
  const e = (yz - b * c) / d;
  return [a, b, c, d, e, Math.sqrt(Math.max(zz - c * c - e * e, least))];
}

function readVideo() {
  const described = JSON.parse(document.getElementById("data").textContent);
  const times = decodeArray(described.times).values;
  const people = described.people.map((person) => new Person(person, times.length, described.stride));
  const camera = new Camera(described);
  return { ...described, times, people, camera };
}

/** The camera that filmed: between the world and the picture. Its x axis is right, y down, z away from it. */
class Camera {
  constructor({ world, floor, focal, imageSize }) {
    Object.assign(this, { world, focal, width: imageSize[0], height: imageSize[1], position: [0, 0, -floor] });
  }

  /** Pixel of a point of the world, or null behind the camera. */
  project(x, y, z) {
    const w = this.world;
    const up = z - this.position[2];
    const depth = w[2] * x + w[5] * y + w[8] * up;
    if (!(depth > 0.05)) return null;
    const right = w[0] * x + w[3] * y + w[6] * up;
    const down = w[1] * x + w[4] * y + w[7] * up;
    return [(this.focal * right) / depth + this.width / 2, (this.focal * down) / depth + this.height / 2];
  }

  /** World position of a point in the camera's own axes. */
  place(right, down, forward) {
    const w = this.world;
    return [0, 3, 6].map((r, i) => w[r] * right + w[r + 1] * down + w[r + 2] * forward + this.position[i]);
  }
}
