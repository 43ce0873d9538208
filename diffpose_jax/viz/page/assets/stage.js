"use strict";
// The 3D view: floor, camera, people, their names, and turning it.

const FIELD_OF_VIEW = 36;
// The ellipse of a 2D normal distribution that holds 90 % has this radius in standard deviations.
const FLOOR_RADIUS = 2.146;
const CIRCLE = 48;

class Stage {
  constructor(video, scale) {
    this.video = video;
    this.canvas = document.getElementById("stage-canvas");
    this.labels = document.getElementById("labels");
    this.renderer = new THREE.WebGLRenderer({ canvas: this.canvas, antialias: true });
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    this.scene = new THREE.Scene();
    this.eye = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.05, 400);
    this.eye.up.set(0, 0, 1);
    this.addLights();
    this.bounds = findBounds(video);
    this.controls = new THREE.OrbitControls(this.eye, this.canvas);
    this.controls.addEventListener("change", () => (this.stale = true));
    this.bodies = new Bodies(this.scene, video, scale);
    this.addFloor();
    this.addCamera();
    this.addPaths();
    this.paint();
    this.resize();
    this.look("start");
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  addLights() {
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x8894a6, 2.1));
    const lamp = new THREE.DirectionalLight(0xffffff, 1.7);
    lamp.position.set(0.6, -0.4, 1);
    this.eye.add(lamp);
    this.scene.add(this.eye);
  }

  lines(points, shape = THREE.LineSegments) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(points.flat()), 3));
    const drawn = new shape(geometry, new THREE.LineBasicMaterial());
    drawn.frustumCulled = false;
    this.scene.add(drawn);
    return drawn;
  }

  /** A grid of metres under everybody. */
  addFloor() {
    const { centre, reach } = this.bounds;
    const half = Math.min(Math.ceil(reach) + 1, 60);
    const [x, y] = [Math.round(centre[0]), Math.round(centre[1])];
    const points = [];
    for (let i = -half; i <= half; i++) {
      points.push([x + i, y - half, 0], [x + i, y + half, 0], [x - half, y + i, 0], [x + half, y + i, 0]);
    }
    this.floor = this.lines(points);
  }

  /** The camera that filmed, as the pyramid of its picture. */
  addCamera() {
    const { camera } = this.video;
    const depth = Math.min(0.7, 0.7 * camera.focal / camera.width);
    const [w, h] = [(camera.width / 2 / camera.focal) * depth, (camera.height / 2 / camera.focal) * depth];
    const corners = [[-w, -h], [w, -h], [w, h], [-w, h]].map(([r, d]) => camera.place(r, d, depth));
    const sides = corners.flatMap((corner, i) => [camera.position, corner, corner, corners[(i + 1) % 4]]);
    const roof = camera.place(0, -1.5 * h, depth);
    this.frustum = this.lines([...sides, corners[0], roof, roof, corners[1]]);
  }

  /** The way of every root over the floor, and where its uncertainty in the world is drawn. */
  addPaths() {
    this.paths = this.video.people.map((person) => {
      const points = [];
      for (let row = 0; row < person.rows; row++) points.push([person.root[row * 3], person.root[row * 3 + 1], 0.004]);
      return this.lines(points, THREE.Line);
    });
    this.spots = this.video.people.map(() => this.lines(Array(CIRCLE + 1).fill([0, 0, 0]), THREE.Line));
  }

  /** Takes the colours of the theme. */
  paint() {
    this.scene.background = new THREE.Color(themeColour("sky"));
    this.floor.material.color.set(themeColour("floor"));
    this.frustum.material.color.set(themeColour("accent"));
    for (const line of [...this.paths, ...this.spots]) line.material.color.set(themeColour("soft"));
    this.stale = true;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.eye.aspect = width / height;
    this.setFieldOfView();
    this.stale = true;
  }

  setFieldOfView() {
    const { camera } = this.video;
    const high = 2 * Math.atan(camera.height / 2 / camera.focal);
    const wide = 2 * Math.atan(camera.width / 2 / camera.focal / this.eye.aspect);
    this.eye.fov = this.filming ? (Math.max(high, wide) * 180) / Math.PI : FIELD_OF_VIEW;
    this.eye.updateProjectionMatrix();
  }

  /** Looks from a named direction at the people. */
  look(name) {
    const { centre, reach } = this.bounds;
    const { camera } = this.video;
    this.filming = name === "camera";
    this.frustum.visible = !this.filming;
    this.setFieldOfView();
    const followed = view.follow ? this.followed() : null;
    const target = followed ?? centre;
    if (this.filming) {
      const ahead = Math.hypot(...target.map((value, i) => value - camera.position[i]));
      this.eye.position.set(...camera.position);
      this.controls.target.set(...camera.place(0, 0, Math.max(ahead, 0.5)));
    } else {
      const half = Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
      const distance = ((followed ? 1.5 : Math.min(reach, 8)) * 1.02) / (half * Math.min(1, this.eye.aspect || 1));
      // "front" is the side of the camera; angles are turned from there to the camera's right.
      const [turn, rise] = { start: [35, 14], front: [0, 6], side: [90, 6], top: [0, 89] }[name].map((a) => (a * Math.PI) / 180);
      const heading = Math.atan2(-camera.world[5], -camera.world[2]) + turn;
      const level = distance * Math.cos(rise);
      this.eye.position.set(
        target[0] + level * Math.cos(heading), target[1] + level * Math.sin(heading), target[2] + distance * Math.sin(rise),
      );
      this.controls.target.set(...target);
    }
    this.controls.update();
    this.stale = true;
  }

  /** Turns by angles in radians and zooms by a factor, as keys do. */
  turn(around, upwards, zoom = 1) {
    const offset = this.eye.position.clone().sub(this.controls.target);
    const radius = offset.length() * zoom;
    const heading = Math.atan2(offset.y, offset.x) + around;
    const rise = Math.asin(offset.z / offset.length()) + upwards;
    const limited = Math.min(Math.max(rise, -1.55), 1.55);
    const level = radius * Math.cos(limited);
    offset.set(level * Math.cos(heading), level * Math.sin(heading), radius * Math.sin(limited));
    this.eye.position.copy(this.controls.target).add(offset);
    this.controls.update();
    this.stale = true;
  }

  /** Where the person is who is followed, or null. */
  followed() {
    const person = chosenPerson(this.video);
    const row = person ? person.row(view.frame) : -1;
    return row < 0 ? null : [...person.root.subarray(row * 3, row * 3 + 2), this.bounds.centre[2]];
  }

  update() {
    const target = view.follow && !this.filming ? this.followed() : null;
    if (target) {
      const step = new THREE.Vector3(...target).sub(this.controls.target);
      this.eye.position.add(step);
      this.controls.target.add(step);
      this.controls.update();
    }
    this.bodies.update();
    const shown = new Map(shownPeople(this.video).map(({ index, row }) => [index, row]));
    this.video.people.forEach((person, index) => {
      this.paths[index].visible = view.person < 0 || view.person === index;
      this.spots[index].visible = shown.has(index);
      if (shown.has(index)) this.drawSpot(person, shown.get(index), this.spots[index]);
    });
    this.stale = true;
  }

  /** The 90 % ellipse of where the root stands, on the floor. */
  drawSpot(person, row, spot) {
    const w = this.video.camera.world;
    const variance = [0, 1, 2].map((i) => person.rootStd[row * 3 + i] ** 2);
    const sum = (a, b) => variance.reduce((total, v, i) => total + w[a * 3 + i] * w[b * 3 + i] * v, 0);
    const [a, b, , d] = factorise([sum(0, 0), sum(0, 1), 0, sum(1, 1), 0, 1]).map((value) => value * FLOOR_RADIUS);
    const points = spot.geometry.attributes.position;
    for (let i = 0; i <= CIRCLE; i++) {
      const [c, s] = [Math.cos((2 * Math.PI * i) / CIRCLE), Math.sin((2 * Math.PI * i) / CIRCLE)];
      points.setXYZ(i, person.root[row * 3] + a * c, person.root[row * 3 + 1] + b * c + d * s, 0.006);
    }
    points.needsUpdate = true;
  }

  draw() {
    this.stale = false;
    this.renderer.render(this.scene, this.eye);
    this.placeLabels();
  }

  /** Names above heads, and the chosen joint with its number. */
  placeLabels() {
    const wanted = [];
    const chosen = chosenPerson(this.video);
    for (const { person, row } of shownPeople(this.video)) {
      const points = person.positions(row, Math.min(view.hypothesis, person.hypothesisCount - 1));
      let top = 0;
      for (let j = 1; j < person.joints.length; j++) if (points[j * 3 + 2] > points[top * 3 + 2]) top = j;
      wanted.push({ text: person.name, kind: "", at: points.subarray(top * 3, top * 3 + 3), lift: 26, align: 0.5 });
      if (person !== chosen) continue;
      const joint = Math.min(view.joint, person.joints.length - 1);
      const mm = person.uncertainty[row * person.joints.length + joint];
      const text = person.joints[joint] + (Number.isFinite(mm) ? `: ${Math.round(mm)} mm` : "");
      wanted.push({ text, kind: "joint", at: points.subarray(joint * 3, joint * 3 + 3), lift: 10, align: -0.1 });
    }
    while (this.labels.children.length < wanted.length) this.labels.append(document.createElement("div"));
    while (this.labels.children.length > wanted.length) this.labels.lastChild.remove();
    wanted.forEach((label, i) => this.placeLabel(this.labels.children[i], label));
  }

  placeLabel(element, { text, kind, at, lift, align }) {
    const place = new THREE.Vector3(...at).project(this.eye);
    const { clientWidth: width, clientHeight: height } = this.labels;
    element.hidden = !(Math.abs(place.z) < 1 && Math.abs(place.x) < 1.2 && Math.abs(place.y) < 1.2);
    if (element.textContent !== text) element.textContent = text;
    element.className = kind;
    const wanted = ((place.x + 1) / 2) * width - align * element.offsetWidth;
    const x = Math.max(4, Math.min(wanted, width - element.offsetWidth - 4));
    const y = ((1 - place.y) / 2) * height - lift;
    element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translateY(-50%)`;
  }

  /** The person and joint next to a point of the canvas, or null where none is near. */
  pick(x, y) {
    let best = { distance: 26 };
    const { clientWidth: width, clientHeight: height } = this.canvas;
    for (const { person, index, row } of shownPeople(this.video)) {
      const points = person.positions(row, Math.min(view.hypothesis, person.hypothesisCount - 1));
      person.joints.forEach((_, joint) => {
        const place = new THREE.Vector3(...points.subarray(joint * 3, joint * 3 + 3)).project(this.eye);
        const distance = Math.hypot(((place.x + 1) / 2) * width - x, ((1 - place.y) / 2) * height - y);
        if (distance < best.distance) best = { distance, index, joint };
      });
    }
    return best.index === undefined ? null : best;
  }
}

/** The middle of all people over the video, and how far they reach from it, in metres. */
function findBounds(video) {
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  let tall = 1.7;
  for (const person of video.people) {
    for (let row = 0; row < person.rows; row++) {
      for (const i of [0, 1]) {
        low[i] = Math.min(low[i], person.root[row * 3 + i]);
        high[i] = Math.max(high[i], person.root[row * 3 + i]);
      }
      tall = Math.max(tall, person.root[row * 3 + 2] + 0.8);
    }
  }
  if (!Number.isFinite(low[0] + high[1])) return { centre: video.camera.place(0, 0, 3).slice(0, 2).concat(0.9), reach: 2 };
  const centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, Math.min(tall, 2.6) / 2];
  return { centre, reach: Math.max(0.5 * Math.hypot(high[0] - low[0], high[1] - low[1]) + 0.75, tall / 2 + 0.15) };
}
