"use strict";
// Keyboard, mouse and touch.

const KEYS = [
  ["drag, one finger", "turn; right button or two fingers move"],
  ["wheel, pinch", "zoom"],
  ["click on a joint", "its name, its uncertainty and its plot"],
  ["space", "play, pause"],
  [", and .", "one frame back, on; with Shift ten"],
  ["Home, End", "first, last frame"],
  ["[ and ]", "slower, faster"],
  ["arrows, + and −", "turn and zoom while the 3D view has the focus, else one frame back or on"],
  ["c f s t", "through the camera, front, side, from above"],
  ["0, 1 to 9", "everybody, one person"],
  ["a, h, H", "aggregate, next, previous hypothesis"],
  ["u", "next way of drawing the uncertainty"],
  ["l", "colours: uncertainty, or left and right"],
];
const VIEW_KEYS = { c: "camera", f: "front", s: "side", t: "top" };
const TURN = Math.PI / 24;

function cycle(choices, now, step) {
  return choices[(choices.indexOf(now) + step + choices.length) % choices.length];
}

class Keys {
  constructor(video, stage, player) {
    Object.assign(this, { video, stage, player });
    document.addEventListener("keydown", (event) => this.press(event));
    fillList("help", KEYS);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("select, textarea, input:not([type=range])") && event.key !== "Escape") return;
    // Space on a button presses it, arrows on the slider move it.
    if (event.key === " " && event.target.matches("button, summary, input")) return;
    if (event.key.startsWith("Arrow") && event.target.matches("input")) return;
    const action = this.find(event.key, event.shiftKey, this.stage && event.target === this.stage.canvas);
    if (!action) return;
    event.preventDefault();
    action();
  }

  find(key, shift, turning) {
    const { player, stage } = this;
    if (turning) {
      const turns = { ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, TURN], ArrowDown: [0, -TURN] };
      turns["+"] = turns["="] = [0, 0, 0.9];
      turns["-"] = [0, 0, 1 / 0.9];
      if (turns[key]) return () => stage.turn(...turns[key]);
    }
    const step = shift ? 10 : 1;
    const last = this.video.times.length - 1;
    if (VIEW_KEYS[key] && stage) return () => stage.look(VIEW_KEYS[key]);
    if (/^[0-9]$/.test(key)) return () => Number(key) <= this.video.people.length && change({ person: Number(key) - 1 });
    return {
      " ": () => player.toggle(),
      ",": () => player.go(view.frame - 1),
      ".": () => player.go(view.frame + 1),
      "<": () => player.go(view.frame - 10),
      ">": () => player.go(view.frame + 10),
      ";": () => player.go(view.frame - 10),
      ":": () => player.go(view.frame + 10),
      ArrowLeft: () => player.go(view.frame - step),
      ArrowRight: () => player.go(view.frame + step),
      Home: () => player.go(0),
      End: () => player.go(last),
      "[": () => change({ speed: SPEEDS[Math.max(SPEEDS.indexOf(view.speed) - 1, 0)] }),
      "]": () => change({ speed: SPEEDS[Math.min(SPEEDS.indexOf(view.speed) + 1, SPEEDS.length - 1)] }),
      a: () => change({ hypothesis: -1 }),
      h: () => this.nextHypothesis(1),
      H: () => this.nextHypothesis(-1),
      u: () => change({ show: cycle([...element("show").options].map((option) => option.value), view.show, 1) }),
      l: () => change({ colour: view.colour === "side" ? "uncertainty" : "side" }),
    }[key];
  }

  nextHypothesis(step) {
    const choices = [...element("hypothesis").options].map((option) => Number(option.value));
    change({ hypothesis: cycle(choices, view.hypothesis, step) });
  }
}

/** A press that is not a drag chooses the joint under it. */
function chooseByClick(stage) {
  let start = null;
  stage.canvas.addEventListener("pointerdown", (event) => (start = event.isPrimary ? [event.offsetX, event.offsetY] : null));
  stage.canvas.addEventListener("pointerup", (event) => {
    if (!start || Math.hypot(event.offsetX - start[0], event.offsetY - start[1]) > 6) return;
    const found = stage.pick(...start);
    if (!found) return;
    change({ joint: found.joint });
    if (chosenIndex(stage.video) !== found.index) change({ person: found.index });
  });
}

function chosenIndex(video) {
  return video.people.indexOf(chosenPerson(video));
}

/** Calls back with the place of a pointer that is pressed on an element and moved. */
function drag(target, callback) {
  const move = (event) => callback(event.offsetX);
  target.addEventListener("pointerdown", (event) => {
    target.setPointerCapture(event.pointerId);
    move(event);
  });
  target.addEventListener("pointermove", (event) => event.buttons && move(event));
}
