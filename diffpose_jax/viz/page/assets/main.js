"use strict";
// Puts the page together and lets time run.

/** Playing and going to frames; the film is the clock while it plays. */
class Player {
  constructor(video, picture) {
    Object.assign(this, { video, picture, time: 0, before: null });
    element("play").addEventListener("click", () => this.toggle());
    element("back").addEventListener("click", () => this.go(view.frame - 1));
    element("on").addEventListener("click", () => this.go(view.frame + 1));
    const slider = element("time");
    slider.max = String(Math.max(video.times.length - 1, 0));
    slider.addEventListener("input", () => this.go(Number(slider.value)));
    drag(element("strip"), (x) => this.go(Math.round((x / element("strip").clientWidth) * (video.times.length - 1))));
  }

  toggle() {
    if (view.playing) return this.stop();
    if (this.video.times.length < 2) return;
    if (view.frame >= this.video.times.length - 1) change({ frame: 0 });
    this.time = this.video.times[view.frame];
    this.before = null;
    change({ playing: true });
    this.picture.play();
  }

  stop() {
    this.picture.pause();
    change({ playing: false });
    this.picture.seek();
  }

  /** Shows a frame; playing stops. */
  go(frame) {
    if (view.playing) this.stop();
    change({ frame: Math.min(Math.max(frame, 0), Math.max(this.video.times.length - 1, 0)) });
  }

  frameAt(time) {
    const { times } = this.video;
    let [low, high] = [0, times.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= time + 1e-3) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Called before every picture of the screen, with its time in milliseconds. */
  advance(now) {
    if (!view.playing) return;
    const { times } = this.video;
    const passed = this.before === null ? 0 : (Math.min(now - this.before, 500) / 1000) * view.speed;
    this.before = now;
    if (this.picture.film.ended) this.time = Infinity;
    else if (this.picture.hasFilm) this.time = this.picture.time() ?? this.time;
    else this.time += passed;
    // The last frame is shown as long as the one before it; then all begins again.
    const last = times[times.length - 1];
    if (this.time < last + (this.picture.hasFilm ? 0.5 : last - times[times.length - 2])) return change({ frame: this.frameAt(this.time) });
    this.time = times[0];
    change({ frame: 0 });
    if (this.picture.hasFilm) this.picture.play();
  }
}

function showClock(video) {
  const time = (video.times[view.frame] ?? 0).toFixed(2);
  element("clock").textContent = `${time} s · ${video.times.length ? view.frame + 1 : 0} / ${video.times.length}`;
  element("time").value = String(view.frame);
  const play = element("play");
  play.textContent = view.playing ? "❚❚" : "▶\uFE0E";
  play.setAttribute("aria-label", view.playing ? "Pause" : "Play");
}

function openStage(video, scale) {
  try {
    return new Stage(video, scale);
  } catch (error) {
    // Without WebGL the picture and the plot still work.
    const message = element("stage-message");
    message.textContent = "This browser shows no 3D graphics (WebGL); the picture and the plot work without.";
    message.hidden = false;
    return null;
  }
}

function start() {
  const video = readVideo();
  const scale = new ColourScale(video.scale);
  const wrists = (chosenPerson(video)?.joints ?? []).findIndex((name) => name.endsWith("wrist"));
  view.joint = Math.max(wrists, 0);
  if (video.people.length === 1) view.person = 0;
  const stage = openStage(video, scale);
  if (stage && stage.bounds.reach > 4 && video.people.length === 1) {
    view.follow = true;
    stage.look("start");
  }
  const picture = new Picture(video, scale);
  const plot = new Plot(video);
  const panels = new Panels(video, scale);
  const player = new Player(video, picture);
  new Keys(video, stage, player);
  if (stage) {
    chooseByClick(stage);
    for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => stage.look(button.dataset.view));
  }
  drag(plot.canvas, (x) => player.go(player.frameAt(plot.timeAt(x))));
  let stale = new Set(Object.keys(view));
  watch((names) => names.forEach((name) => stale.add(name)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    stage?.paint();
    panels.drawStrip();
    stale.add("colour");
  });

  const update = (names) => {
    const has = (...wanted) => wanted.some((name) => names.has(name));
    if (has("person", "joint", "quantity", "hypothesis")) plot.gather();
    if (has("frame", "person", "hypothesis", "show", "colour", "follow", "joint")) stage?.update();
    if (has("speed") && view.playing) picture.film.playbackRate = view.speed;
    if (has("frame")) picture.seek();
    picture.draw();
    plot.draw();
    panels.fillTable();
    showClock(video);
  };
  const tick = (now) => {
    player.advance(now);
    if (stale.size) {
      const names = stale;
      stale = new Set();
      update(names);
    }
    if (stage?.stale) stage.draw();
    requestAnimationFrame(tick);
  };
  panels.drawStrip();
  tick(performance.now());
  document.documentElement.dataset.ready = "yes";
}

start();
