"use strict";
// The bodies in the 3D scene: every kind of part is one instanced mesh, whose instances are filled again each frame.

const BONE_RADIUS = 0.021;
const JOINT_RADIUS = 0.034;
const HYPOTHESIS_RADIUS = 0.006;
const TRUTH_RADIUS = 0.011;
// The ball or ellipsoid of a 3D normal distribution that holds 50 and 90 % has these radii in standard deviations.
const NORMAL_RADII = [1.538, 2.5];

/** Instances of one shape, counted while they are added. */
class Instances {
  constructor(scene, geometry, material, capacity, order = 0) {
    this.mesh = new THREE.InstancedMesh(geometry, material, Math.max(capacity, 1));
    this.mesh.instanceColor = new THREE.InstancedBufferAttribute(new Float32Array(3 * Math.max(capacity, 1)), 3);
    this.mesh.frustumCulled = false;
    this.mesh.renderOrder = order;
    scene.add(this.mesh);
  }

  begin() {
    this.mesh.count = 0;
  }

  /** Adds one whose unit axes become the columns [ax, ay, az], [bx, ...], [cx, ...] at (x, y, z). */
  add(ax, ay, az, bx, by, bz, cx, cy, cz, x, y, z, colour) {
    if (!Number.isFinite(x + y + z + bx + by + bz)) return;
    const at = this.mesh.count++;
    this.mesh.instanceMatrix.array.set([ax, ay, az, 0, bx, by, bz, 0, cx, cy, cz, 0, x, y, z, 1], at * 16);
    this.mesh.instanceColor.array.set(toLinear(colour), at * 3);
  }

  addBall(x, y, z, radius, colour) {
    this.add(radius, 0, 0, 0, radius, 0, 0, 0, radius, x, y, z, colour);
  }

  /** Adds a cylinder between two points. */
  addRod(px, py, pz, qx, qy, qz, radius, colour) {
    const [dx, dy, dz] = [qx - px, qy - py, qz - pz];
    const length = Math.hypot(dx, dy, dz);
    if (!(length > 1e-6)) return;
    // Two axes across the rod: one level, or along x where the rod is upright.
    const level = Math.hypot(dx, dy);
    const [sx, sy] = level > 1e-6 * length ? [-dy / level, dx / level] : [1, 0];
    const [tx, ty, tz] = [(sy * dz) / length, (-sx * dz) / length, (sx * dy - sy * dx) / length];
    this.add(
      ...[sx * radius, sy * radius, 0, dx, dy, dz, tx * radius, ty * radius, tz * radius],
      ...[(px + qx) / 2, (py + qy) / 2, (pz + qz) / 2, colour],
    );
  }

  end() {
    // What is not there is not compiled either.
    this.mesh.visible = this.mesh.count > 0;
    this.mesh.instanceMatrix.needsUpdate = true;
    this.mesh.instanceColor.needsUpdate = true;
  }
}

function translucent(opacity, Material = THREE.MeshBasicMaterial) {
  return new Material({ transparent: true, opacity, depthWrite: false });
}

class Bodies {
  constructor(scene, video, scale) {
    Object.assign(this, { video, scale });
    const joints = video.people.reduce((sum, person) => sum + person.joints.length, 0);
    const drawn = video.people.reduce((sum, person) => sum + person.joints.length * person.hypothesisCount, 0);
    const rod = new THREE.CylinderGeometry(1, 1, 1, 14, 1, false);
    const thinRod = new THREE.CylinderGeometry(1, 1, 1, 5, 1, true);
    const ball = new THREE.SphereGeometry(1, 20, 14);
    const solid = () => new THREE.MeshLambertMaterial();
    this.bones = new Instances(scene, rod, solid(), 2 * joints);
    this.joints = new Instances(scene, ball, solid(), joints);
    this.hidden = new Instances(scene, ball, translucent(0.5), joints, 1);
    this.truth = new Instances(scene, thinRod, solid(), joints);
    const count = Math.max(1, ...video.people.map((person) => person.hypothesisCount));
    // Fainter where there are more, so that many agreeing hypotheses do not hide the aggregate.
    this.cloud = new Instances(scene, thinRod, translucent(Math.min(0.6, 0.12 + 2.5 / count)), 2 * drawn, 2);
    const volume = new THREE.SphereGeometry(1, 36, 24);
    this.wide = new Instances(scene, volume, translucent(0.15, THREE.MeshLambertMaterial), joints, 4);
    this.narrow = new Instances(scene, volume, translucent(0.3, THREE.MeshLambertMaterial), joints, 3);
    this.parts = [this.bones, this.joints, this.hidden, this.truth, this.cloud, this.wide, this.narrow];
  }

  update() {
    for (const part of this.parts) part.begin();
    for (const { person, row } of shownPeople(this.video)) {
      const colours = person.joints.map((_, joint) => jointColour(person, row, joint, this.scale));
      this.addBody(person, row, colours);
      if (view.show === "hypotheses") this.addCloud(person, row, colours);
      if (view.show === "regions") this.addRegions(person, row, colours);
      if (view.show === "ellipsoids") this.addEllipsoids(person, row, colours);
      if (person.truth) this.addTruth(person, row);
    }
    for (const part of this.parts) part.end();
  }

  addBody(person, row, colours) {
    const points = person.positions(row, Math.min(view.hypothesis, person.hypothesisCount - 1));
    addBones(this.bones, person, points, BONE_RADIUS, colours);
    person.joints.forEach((_, joint) => {
      const seen = person.seen[row * person.joints.length + joint];
      const part = seen ? this.joints : this.hidden;
      part.addBall(...points.subarray(joint * 3, joint * 3 + 3), JOINT_RADIUS, colours[joint]);
    });
  }

  addCloud(person, row, colours) {
    for (let h = 0; h < person.hypothesisCount; h++) {
      if (h !== view.hypothesis) addBones(this.cloud, person, person.positions(row, h), HYPOTHESIS_RADIUS, colours);
    }
  }

  addTruth(person, row) {
    const colour = themeColour("truth");
    addBones(this.truth, person, person.positions(row, -2), TRUTH_RADIUS, Array(person.joints.length).fill(colour));
  }

  addRegions(person, row, colours) {
    if (!person.radius90) return this.addEllipsoids(person, row, colours);
    const points = person.positions(row, -1);
    person.joints.forEach((_, joint) => {
      const at = row * person.joints.length + joint;
      const place = points.subarray(joint * 3, joint * 3 + 3);
      if (person.radius90[at] > 0) this.wide.addBall(...place, person.radius90[at], colours[joint]);
      if (person.radius50?.[at] > 0) this.narrow.addBall(...place, person.radius50[at], colours[joint]);
    });
  }

  addEllipsoids(person, row, colours) {
    const points = person.positions(row, -1);
    person.joints.forEach((_, joint) => {
      const factor = person.covarianceFactor(row, joint);
      if (!factor) return;
      [this.narrow, this.wide].forEach((part, which) => {
        // The factor maps the unit ball onto the ellipsoid: its columns are the instance's axes.
        const [a, b, c, d, e, f] = factor.map((value) => value * NORMAL_RADII[which]);
        part.add(a, b, c, 0, d, e, 0, 0, f, ...points.subarray(joint * 3, joint * 3 + 3), colours[joint]);
      });
    });
  }
}

/** Bones in two halves, each in the colour of its own end. */
function addBones(part, person, points, radius, colours) {
  for (const [child, parent] of person.bones) {
    const [x, y, z] = points.subarray(child * 3, child * 3 + 3);
    const [u, v, w] = points.subarray(parent * 3, parent * 3 + 3);
    if (colours[child] === colours[parent]) {
      part.addRod(x, y, z, u, v, w, radius, colours[child]);
      continue;
    }
    const middle = [(x + u) / 2, (y + v) / 2, (z + w) / 2];
    part.addRod(x, y, z, ...middle, radius, colours[child]);
    part.addRod(...middle, u, v, w, radius, colours[parent]);
  }
}
