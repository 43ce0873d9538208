"use strict";
// Everything around the pictures: people, choices, legend, time strip, the table of joints and the texts.

const element = (id) => document.getElementById(id);

function make(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Fills a select with [value, text] pairs and ties it to a field of the view. */
function tieSelect(id, field, choices, read = (text) => text) {
  const select = element(id);
  select.replaceChildren(...choices.map(([value, text]) => make("option", text, { value })));
  select.value = String(view[field]);
  select.addEventListener("change", () => change({ [field]: read(select.value) }));
  watch((names) => names.has(field) && (select.value = String(view[field])));
}

function tieTick(id, field) {
  const box = element(id);
  box.checked = view[field];
  box.addEventListener("change", () => change({ [field]: box.checked }));
  watch((names) => names.has(field) && (box.checked = view[field]));
}

class Panels {
  constructor(video, scale) {
    Object.assign(this, { video, scale });
    this.describe();
    this.listPeople();
    this.fillChoices();
    this.writeAbout();
    this.writeSettings();
    this.drawLegend();
    for (const [id, field] of [["follow", "follow"], ["keypoints", "keypoints"], ["reprojection", "reprojection"]]) tieTick(id, field);
    watch((names) => {
      if (names.has("person")) this.fillJoints();
      if (names.has("colour")) this.drawLegend();
    });
    new ResizeObserver(() => this.drawStrip()).observe(element("timeline"));
    element("table").open = innerWidth > 760;
    element("table").addEventListener("toggle", () => this.fillTable());
  }

  describe() {
    const { times, people, source } = this.video;
    const seconds = times.length > 1 ? times[times.length - 1] - times[0] : 0;
    const hypotheses = Math.max(0, ...people.map((person) => person.hypothesesMade));
    const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
    element("source").textContent = source;
    element("summary").textContent = [
      people.length ? count(people.length, "person", "people") : "nobody was found",
      `${count(times.length, "frame", "frames")} in ${seconds.toFixed(1)} s`,
      people.length ? count(hypotheses, "hypothesis", "hypotheses") + (people.length > 1 ? " each" : "") : null,
    ].filter(Boolean).join(" · ");
  }

  listPeople() {
    const { people } = this.video;
    const choices = people.length > 1 ? [[-1, "everybody"]] : [];
    people.forEach((person, index) => choices.push([index, person.name]));
    const buttons = choices.map(([index, name]) => {
      const button = make("button", name, { "data-person": index, title: index < 0 ? "Show everybody (0)" : `Show ${name} (${index + 1})` });
      button.addEventListener("click", () => change({ person: index }));
      return button;
    });
    const mark = () => buttons.forEach((button) => button.setAttribute("aria-pressed", Number(button.dataset.person) === view.person));
    element("people").replaceChildren(...buttons);
    watch(mark);
    mark();
  }

  fillChoices() {
    const { people } = this.video;
    const most = Math.max(0, ...people.map((person) => person.hypothesisCount));
    const single = Array.from({ length: most }, (_, h) => [h, `hypothesis ${h + 1}`]);
    tieSelect("hypothesis", "hypothesis", [[-1, "aggregate"], ...single], Number);
    tieSelect("show", "show", SHOWN.filter(([name]) => name !== "ellipsoids" || most > 3));
    tieSelect("colour", "colour", [["uncertainty", "uncertainty"], ["side", "left and right"]]);
    tieSelect("speed", "speed", SPEEDS.map((speed) => [speed, `${speed} ×`]), Number);
    const known = people.some((person) => person.truth);
    tieSelect("quantity", "quantity", QUANTITIES.filter(([name]) => name !== "error" || known).map(([name, text]) => [name, text]));
    tieSelect("joint", "joint", [], Number);
    this.fillJoints();
  }

  fillJoints() {
    const joints = chosenPerson(this.video)?.joints ?? [];
    element("joint").replaceChildren(...joints.map((name, index) => make("option", name, { value: index })));
    element("joint").value = String(Math.min(view.joint, joints.length - 1));
  }

  drawLegend() {
    const legend = element("legend");
    const swatch = (colour, text) => [make("span", "", { class: "swatch", style: `background: ${colour}` }), make("span", text)];
    const marks = make("div");
    if (view.colour === "side") {
      legend.replaceChildren(...swatch(LEFT, "left"), ...swatch(RIGHT, "right"), marks);
    } else {
      const { label, top, stops } = this.scale;
      const ticks = make("div", "", { class: "ticks" });
      ticks.append(...[0, 0.5, 1].map((share) => make("span", `${share === 1 ? "≥ " : ""}${Math.round(top * share)}${share === 1 ? " mm" : ""}`)));
      legend.replaceChildren(
        make("span", label),
        make("div", "", { class: "bar", style: `background: linear-gradient(90deg, ${stops.join(", ")})` }), ticks, marks,
      );
    }
    marks.append(make("span", "", { class: "swatch open" }), make("span", "not seen by the detector"));
    if (this.video.people.some((person) => person.truth)) marks.append(...swatch("var(--truth)", "truth"));
  }

  /** One strip per person: mean uncertainty over time, with gaps where the person is away. */
  drawStrip() {
    const { people, times } = this.video;
    const canvas = element("strip");
    const high = Math.max(4, Math.min(8, 24 / Math.max(people.length, 1)));
    canvas.style.height = `${Math.max(people.length, 1) * (high + 1)}px`;
    const cleared = clearCanvas(canvas);
    if (!cleared) return;
    const { context, width } = cleared;
    people.forEach((person, index) => {
      context.fillStyle = themeColour("line");
      context.fillRect(0, index * (high + 1), width, high);
      const joints = person.joints.length;
      for (let x = 0; x < width; x++) {
        const row = person.row(Math.round((x / Math.max(width - 1, 1)) * (times.length - 1)));
        if (row < 0) continue;
        const values = person.uncertainty.subarray(row * joints, (row + 1) * joints);
        context.fillStyle = this.scale.css(values.reduce((sum, value) => sum + value, 0) / joints);
        context.fillRect(x, index * (high + 1), 1, high);
      }
    });
  }

  fillTable() {
    if (!element("table").open) return;
    // A table that is written anew sixty times a second cannot be read.
    const now = performance.now();
    if (view.playing && now - (this.filled ?? 0) < 150) return;
    this.filled = now;
    const person = chosenPerson(this.video);
    const row = person ? person.row(view.frame) : -1;
    const box = element("table").lastElementChild;
    if (row < 0) return box.replaceChildren(make("p", person ? `${person.name} is not in this frame.` : "Nobody was found."));
    const table = make("table");
    const head = make("tr");
    const names = ["joint", ...(person.radius90 ? ["90 %, mm"] : []), "std, mm", ...(person.truth ? ["error, mm"] : []), "seen"];
    head.append(...names.map((name) => make("th", name)));
    const body = make("tbody");
    body.append(...person.joints.map((_, joint) => this.tableRow(person, row, joint)));
    const top = make("thead");
    top.append(head);
    table.append(top, body);
    const [x, y, z] = person.root.subarray(row * 3, row * 3 + 3);
    const std = Array.from(person.rootStd.subarray(row * 3, row * 3 + 3), (value) => Math.round(100 * value));
    const place = `${person.name} stands at (${x.toFixed(2)}, ${y.toFixed(2)}, ${z.toFixed(2)}) m; standard deviation along the `
      + `picture's width ${std[0]}, height ${std[1]}, depth ${std[2]} cm.`;
    box.replaceChildren(make("p", place), table);
  }

  tableRow(person, row, joint) {
    const at = row * person.joints.length + joint;
    const mm = (value) => (Number.isFinite(value) ? String(Math.round(value)) : "–");
    const line = make("tr", "", joint === view.joint ? { class: "chosen" } : {});
    const name = make("td");
    name.append(make("span", "", { class: "swatch", style: `background: ${this.scale.css(person.uncertainty[at])}` }), person.joints[joint]);
    const cells = [...(person.radius90 ? [mm(1000 * person.radius90[at])] : []), mm(1000 * person.spread[at])];
    if (person.truth) cells.push(mm(person.error(row, joint, Math.min(view.hypothesis, person.hypothesisCount - 1))));
    cells.push(person.seen[at] ? "yes" : "no");
    line.append(name, ...cells.map((text) => make("td", text)));
    line.addEventListener("click", () => change({ joint }));
    return line;
  }

  writeAbout() {
    const calibrated = this.video.people.some((person) => person.radius90);
    const texts = [
      "People in a video of one camera, lifted to 3D. One picture fits many poses: above all it leaves open how far each "
        + "joint is along the line of sight. The model therefore draws many poses, the hypotheses; the solid body is their aggregate, "
        + "the faint skeletons are the hypotheses themselves.",
      calibrated
        ? "Colours say how far a joint may be from where it is drawn: within this radius it should be 90 times in 100, on people and "
          + "cameras like those of the calibration. On others the true share can be lower."
        : "Colours are the standard deviation of the hypotheses. The model was not calibrated, so this says where it is less sure, "
          + "not how often it is right.",
      "Joints are relative to the pelvis. Where a person stands is a second estimate; the ring on the floor should hold it 90 times in "
        + "100. It rests on the focal length and on the person's height: if they are wrong, everything is nearer or farther in proportion.",
      ...this.compareWithTruth(),
    ];
    element("about").lastElementChild.replaceChildren(...texts.map((text) => make("p", text)));
  }

  /** Mean error over all people, and how often the truth lies within the regions, as a sentence. */
  compareWithTruth() {
    let [sum, inside, count] = [0, 0, 0];
    for (const person of this.video.people.filter(({ truth }) => truth)) {
      for (let row = 0; row < person.rows; row++) {
        person.joints.forEach((_, joint) => {
          const error = person.error(row, joint, -1);
          if (!Number.isFinite(error)) return;
          sum += error;
          count++;
          if (person.radius90 && error <= 1000 * person.radius90[row * person.joints.length + joint]) inside++;
        });
      }
    }
    if (!count) return [];
    const covered = this.video.people.some((person) => person.radius90);
    return [`Against the truth that was given, the mean error of a joint relative to the pelvis is ${Math.round(sum / count)} mm`
      + (covered ? `, and ${Math.round((100 * inside) / count)} % of the joints lie within their 90 % regions.` : ".")];
  }

  writeSettings() {
    const { settings, people, imageSize, focal, stride } = this.video;
    const kept = Math.max(0, ...people.map((person) => person.hypothesisCount));
    const made = Math.max(0, ...people.map((person) => person.hypothesesMade));
    const own = { picture: `${imageSize[0]} × ${imageSize[1]}`, "focal length": `${Math.round(focal)} pixels` };
    if (kept < made) own["on this page"] = `the first ${kept} of ${made} hypotheses, so that the file stays small`;
    if (stride > 1) own["frames on this page"] = `every ${stride}th`;
    fillList("settings", Object.entries({ ...settings, ...own }));
  }
}

function fillList(id, pairs) {
  const entries = pairs.flatMap(([name, value]) => [make("dt", name), make("dd", value)]);
  element(id).querySelector("dl").replaceChildren(...entries);
}
