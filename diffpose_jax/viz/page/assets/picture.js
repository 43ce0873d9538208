"use strict";
// The film with the keypoints over it, and its clock.

const JUST_AFTER = 0.002; // seconds: where in a frame a film is stopped, so that rounding does not show the one before

class Picture {
  constructor(video, scale) {
    Object.assign(this, { video, scale, hasFilm: false, shownTime: null });
    this.canvas = document.getElementById("picture-canvas");
    this.film = document.getElementById("film");
    this.box = document.getElementById("picture-box");
    const [width, height] = video.imageSize;
    this.box.style.aspectRatio = `${width} / ${height}`;
    this.box.style.width = width >= height ? "100%" : `min(100%, calc(46vh * ${width / height}))`;
    new ResizeObserver(() => this.draw()).observe(this.box);
    const data = document.getElementById("film-data").textContent.trim();
    if (data) this.openFilm(data);
    else this.film.remove();
  }

  openFilm(data) {
    this.film.src = URL.createObjectURL(new Blob([decodeBytes(data)], { type: "video/mp4" }));
    this.film.addEventListener("loadeddata", () => {
      this.hasFilm = true;
      if (view.playing) this.play();
      else this.seek();
    });
    this.film.addEventListener("seeked", () => this.seek());
    this.film.addEventListener("error", () => {
      this.hasFilm = false;
      this.film.remove();
      document.querySelector("#picture figcaption").append(make("span", "This browser cannot play the embedded film."));
    });
  }

  /** Brings a film that stands to the current frame; while it still seeks, this is called again when it has. */
  seek() {
    if (!this.hasFilm || view.playing || this.film.seeking) return;
    const wanted = Math.min(this.video.times[view.frame] + JUST_AFTER, this.film.duration || 0);
    if (Math.abs(this.film.currentTime - wanted) > JUST_AFTER / 2) this.film.currentTime = wanted;
  }

  play() {
    this.shownTime = null;
    if (!this.hasFilm) return;
    this.film.playbackRate = view.speed;
    this.film.currentTime = this.video.times[view.frame] + JUST_AFTER;
    this.film.play().catch(() => (this.hasFilm = false));
    const note = (_, shown) => {
      this.shownTime = shown.mediaTime + JUST_AFTER;
      if (view.playing) this.film.requestVideoFrameCallback(note);
    };
    if (this.film.requestVideoFrameCallback) this.film.requestVideoFrameCallback(note);
  }

  pause() {
    if (this.hasFilm) this.film.pause();
  }

  /** The time that the playing film shows, or null where there is none or it does not run. */
  time() {
    if (!this.hasFilm || this.film.paused || this.film.seeking) return null;
    return this.film.requestVideoFrameCallback ? this.shownTime : this.film.currentTime;
  }

  draw() {
    const cleared = clearCanvas(this.canvas);
    if (!cleared) return;
    const { context, width } = cleared;
    const unit = width / this.video.imageSize[0];
    for (const { person, row } of shownPeople(this.video)) {
      if (view.reprojection) this.drawProjected(context, person, row, unit);
      if (view.keypoints) this.drawKeypoints(context, person, row, unit);
    }
  }

  drawKeypoints(context, person, row, unit) {
    const count = person.joints.length;
    const at = (joint) => [0, 1].map((i) => person.keypoints[(row * count + joint) * 2 + i] * unit);
    const seen = (joint) => person.seen[row * count + joint] > 0;
    context.lineCap = "round";
    for (const [child, parent] of person.bones) {
      context.setLineDash(seen(child) && seen(parent) ? [] : [2, 4]);
      strokeTwice(context, at(child), at(parent), jointColour(person, row, child, this.scale), 2.2);
    }
    context.setLineDash([]);
    for (let joint = 0; joint < count; joint++) {
      const [x, y] = at(joint);
      context.beginPath();
      context.arc(x, y, 3.3, 0, 2 * Math.PI);
      context.fillStyle = jointColour(person, row, joint, this.scale);
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1.2;
      if (seen(joint)) context.fill();
      context.stroke();
    }
  }

  drawProjected(context, person, row, unit) {
    const trace = (hypothesis, style, lineWidth) => {
      const points = person.positions(row, hypothesis);
      context.strokeStyle = style;
      context.lineWidth = lineWidth;
      context.beginPath();
      for (const ends of person.bones) {
        const placed = ends.map((joint) => this.video.camera.project(...points.subarray(joint * 3, joint * 3 + 3)));
        if (placed.includes(null)) continue;
        context.moveTo(placed[0][0] * unit, placed[0][1] * unit);
        context.lineTo(placed[1][0] * unit, placed[1][1] * unit);
      }
      context.stroke();
    };
    for (let h = 0; h < person.hypothesisCount; h++) trace(h, "rgba(255, 255, 255, 0.22)", 1);
    trace(Math.min(view.hypothesis, person.hypothesisCount - 1), "rgba(255, 255, 255, 0.95)", 1.6);
  }
}

/** A line with a dark edge, which stands out from any picture. */
function strokeTwice(context, from, to, colour, width) {
  for (const [style, lineWidth] of [["rgba(0, 0, 0, 0.45)", width + 1.6], [colour, width]]) {
    context.strokeStyle = style;
    context.lineWidth = lineWidth;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }
}
