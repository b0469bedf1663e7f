// The page's own state: what was done, what is shown, and how time runs. Everything about the flock comes from the
// server; the address carries seed and actions, and so does every question.
import { ask, Refusal } from "./api.js";
import { count, cut, fromHash, join, split, tell, toHash } from "./actions.js";
import { Layout } from "./layout.js";
import { Picture } from "./draw.js";
import * as panel from "./panel.js";

const byId = (id) => document.getElementById(id);
const SLOW_BY = 500;
/** A chunk of play asks for this much of a second of the person's time. */
const CHUNK = 0.25;
const FIRST = { seed: 1, actions: "a12.t5000", origin: "" };

const layout = new Layout();
const picture = new Picture(byId("stage"));
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

const lab = {
  seed: FIRST.seed,
  /** What is shown. */
  actions: "",
  /** What was done before rewinding; `actions` is a beginning of it. */
  full: "",
  /** Name of the peer whose tree is shown. */
  origin: "",
  state: null,
  chosen: -1,
  playing: false,
  /** Simulated time that is drawn, and where it runs to. */
  clock: 0,
  target: 0,
  /** Simulated microseconds per millisecond of the person's. */
  rate: 0,
};

// --- one thing after the other --------------------------------------------------------------------------------

/** What is still to be done; each is a function that asks for a state and shows it. */
const queue = [];
const QUEUE_MAX = 40;
let woken = null;

function wake() {
  if (woken) woken();
  woken = null;
}

const sleep = () => new Promise((resolve) => { woken = resolve; });

function enqueue(deed) {
  if (queue.length < QUEUE_MAX) queue.push(deed);
  wake();
}

let working = false;

async function work() {
  for (;;) {
    working = queue.length > 0;
    if (queue.length > 0) {
      settle();
      await queue.shift()();
    } else if (lab.playing && lab.state) {
      await playOn();
    } else {
      await sleep();
    }
  }
}

/** Asks for a state; says so when it takes long, and when there is none. */
async function fetchState(actions, since) {
  const slowly = setTimeout(() => { byId("busy").hidden = false; }, 250);
  try {
    return await ask({ seed: lab.seed, actions, origin: lab.origin || null, since });
  } catch (error) {
    pause();
    say(error instanceof Refusal ? error.message : `The lab does not answer: ${error.message}`, true);
    return null;
  } finally {
    clearTimeout(slowly);
    byId("busy").hidden = true;
  }
}

/** Shows the state that actions lead to, and lets messages travel up to it. Gives whether there was one. */
async function go(actions, { full = null, animate = true, said = "" } = {}) {
  const since = lab.state?.now ?? 0;
  const state = await fetchState(actions, since);
  if (!state) return false;
  lab.actions = state.actions;
  lab.full = full ?? state.actions;
  show(state, animate ? since : state.now);
  say(said);
  return true;
}

/** Does something now: behind what is shown, which forgets what was rewound. */
function act(words, { origin } = {}) {
  enqueue(async () => {
    const before = lab.origin;
    if (origin !== undefined) lab.origin = origin;
    const done = await go(join(lab.actions, words), { said: split(words).map(tell).join(", ") });
    if (!done) lab.origin = before;
  });
}

const here = () => count(lab.actions);

/** Shows an earlier or later step of what was done. `to` is asked when its turn has come. */
function rewind(to) {
  pause();
  enqueue(async () => {
    const total = count(lab.full);
    const step = Math.max(0, Math.min(total, to()));
    await go(cut(lab.full, step), { full: lab.full, animate: false, said: `step ${step} of ${total}` });
  });
}

// --- showing --------------------------------------------------------------------------------------------------

function show(state, from) {
  lab.state = state;
  if (lab.chosen >= state.peers.length) lab.chosen = -1;
  const moved = layout.update(state.peers.length, state.peers.map((it) => it.up), state.edges);
  if (moved && (still.matches || picture.x.length === 0)) picture.ease(layout, 1);
  lab.clock = still.matches ? state.now : Math.min(from, state.now);
  lab.target = state.now;
  const span = state.now - lab.clock;
  // A step is shown in half a second, whatever it spans; play sets its own rate.
  lab.rate = lab.playing ? speed() * 1000 : Math.max(1, span / 500);
  if (span > 20_000_000) lab.clock = state.now;
  history.replaceState(null, "", toHash(lab));
  panel.show(lab, { choose, look });
  draw();
}

/** Messages that are still shown on their way have arrived. */
function settle() {
  lab.clock = lab.target;
}

let drawing = 0;
let drawnAt = 0;

function draw() {
  if (drawing === 0) {
    drawnAt = performance.now();
    drawing = requestAnimationFrame(frame);
  }
}

function frame(now) {
  drawing = 0;
  const passed = Math.min(100, Math.max(0, now - drawnAt));
  drawnAt = now;
  const moving = picture.ease(layout, still.matches ? 1 : 1 - Math.exp(-passed / 110));
  lab.clock = Math.min(lab.target, lab.clock + passed * lab.rate);
  picture.draw({
    state: lab.state,
    clock: lab.clock,
    chosen: lab.chosen,
    origin: originIndex(),
    passive: byId("show-passive").value,
    liveness: byId("show-liveness").checked,
  });
  panel.tick(lab);
  if (lab.clock >= lab.target) wake();
  if (moving || lab.clock < lab.target || lab.playing) drawing = requestAnimationFrame(frame);
}

const originIndex = () => (lab.origin && lab.state ? lab.state.peers.findIndex((it) => it.name === lab.origin) : -1);

// --- playing --------------------------------------------------------------------------------------------------

const speed = () => Number(byId("speed").value);

/** Asks for the next chunk while this one is shown, and shows it when its time has come. */
async function playOn() {
  const [actions, since] = [lab.actions, lab.state.now];
  const millis = Math.max(1, Math.round(speed() * CHUNK * 1000));
  const state = await fetchState(join(actions, `t${millis}`), since);
  while (state && lab.playing && queue.length === 0 && lab.clock < lab.target) await sleep();
  // What was done meanwhile goes first; the chunk is then asked for again, behind it.
  if (!state || !lab.playing || queue.length > 0) return;
  lab.actions = state.actions;
  lab.full = state.actions;
  show(state, lab.target);
}

function play() {
  if (lab.playing || !lab.state) return;
  lab.playing = true;
  panel.playing(true);
  say("");
  wake();
  draw();
}

function pause() {
  if (!lab.playing) return;
  lab.playing = false;
  panel.playing(false);
  wake();
}

// --- choosing -------------------------------------------------------------------------------------------------

function choose(index) {
  lab.chosen = index;
  panel.chosen(lab, { choose, look });
  draw();
}

/** Shows another peer's tree; nothing happens to the flock. */
function look(name) {
  enqueue(async () => {
    lab.origin = name;
    await go(lab.actions, { full: lab.full, animate: false, said: name ? `the tree of ${name}` : "no tree" });
  });
}

const chosenName = () => lab.state?.peers[lab.chosen]?.name;

function say(text, bad = false) {
  const line = byId("status");
  line.textContent = text;
  line.classList.toggle("bad", bad);
}

/** Why a button cannot be used just now. */
function whyNot(id) {
  if (id === "back") return "This is the start.";
  if (id === "forward") return "Nothing was rewound.";
  const peer = lab.state?.peers[lab.chosen];
  if (!peer) return "Choose a peer first: click one, or use the arrow keys on the picture.";
  return `${peer.name} is ${peer.up ? "up" : "down"}.`;
}

function onChosen(word, options = () => ({})) {
  const name = chosenName();
  if (name !== undefined) act(word(name), options(name));
}

const deeds = {
  play: () => (lab.playing ? pause() : play()),
  "step-message": () => { pause(); act("m"); },
  "step-heartbeat": () => { pause(); act("h"); },
  "step-second": () => { pause(); act("t1000"); },
  add: () => act("a"),
  "add-ten": () => act("a10"),
  "kill-half": () => act("K50"),
  broadcast: () => onChosen((name) => `b${name}`, (name) => ({ origin: name })),
  kill: () => onChosen((name) => `k${name}`),
  restart: () => onChosen((name) => `r${name}`),
  slow: () => onChosen((name) => `s${name}${lab.state.peers[lab.chosen].slow > 0 ? 0 : SLOW_BY}`),
  leave: () => onChosen((name) => `l${name}`),
  origin: () => {
    const name = chosenName();
    if (name !== undefined) look(lab.origin === name ? "" : name);
  },
  back: () => rewind(() => here() - 1),
  forward: () => rewind(() => here() + 1),
  share: async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied: it holds the seed and everything that was done.");
    } catch {
      say("The browser does not let us copy; the link is this page's address.");
    }
  },
  theme: () => panel.nextTheme(() => { picture.recolour(); draw(); }),
  "help-open": () => byId("help").showModal(),
};

for (const [id, deed] of Object.entries(deeds)) byId(id).addEventListener("click", deed);

// --- keys -----------------------------------------------------------------------------------------------------

const keys = new Map([...document.querySelectorAll("[data-key]")].map((button) => [button.dataset.key, button]));

function change(select, by) {
  const to = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + by));
  select.selectedIndex = to;
  select.dispatchEvent(new Event("change"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (typing) byId("stage").focus();
    else choose(-1);
    return;
  }
  if (typing) return;
  // A focused button takes Space and Enter itself.
  if (event.key === " " && event.target.matches("button, input")) return;
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const button = keys.get(event.shiftKey && /[a-z]/.test(letter) ? `Shift+${letter.toUpperCase()}` : letter);
  if (button) {
    event.preventDefault();
    if (button.disabled) say(whyNot(button.id), true);
    // A key that is held down steps on as fast as states come, and does nothing else again.
    else if (!event.repeat || ("mht,.".includes(letter) && queue.length === 0)) button.click();
    return;
  }
  const others = {
    "/": () => byId("find").focus(),
    "+": () => change(byId("speed"), 1),
    "=": () => change(byId("speed"), 1),
    "-": () => change(byId("speed"), -1),
    p: () => { byId("show-passive").selectedIndex = (byId("show-passive").selectedIndex + 1) % 3; draw(); },
    v: () => { byId("show-liveness").checked = !byId("show-liveness").checked; draw(); },
    g: () => { layout.update(lab.state.peers.length, lab.state.peers.map((it) => it.up), lab.state.edges, { afresh: true }); draw(); },
    z: () => zoom(1.25),
    x: () => zoom(0.8),
    0: () => { picture.zoom = 1; picture.panX = 0; picture.panY = 0; draw(); },
  };
  if (others[letter]) {
    event.preventDefault();
    others[letter]();
  }
});

function step(by) {
  const n = lab.state?.peers.length ?? 0;
  if (n > 0) choose(((lab.chosen < 0 ? (by > 0 ? -1 : 0) : lab.chosen) + by + n) % n);
}

const stage = byId("stage");
stage.addEventListener("keydown", (event) => {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const way = ways[event.key];
  if (way) {
    if (lab.chosen < 0) step(1);
    else choose(picture.towards(lab.chosen, ...way));
  } else if (event.key === "PageDown") step(1);
  else if (event.key === "PageUp") step(-1);
  else if (event.key === "Home") choose(lab.state?.peers.length ? 0 : -1);
  else if (event.key === "End") choose((lab.state?.peers.length ?? 0) - 1);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

byId("list").addEventListener("keydown", (event) => {
  const ways = { ArrowDown: 1, ArrowUp: -1 };
  if (ways[event.key]) step(ways[event.key]);
  else if (event.key === "Home") choose(0);
  else if (event.key === "End") choose((lab.state?.peers.length ?? 0) - 1);
  else return;
  event.preventDefault();
});

// --- mouse ----------------------------------------------------------------------------------------------------

function zoom(by, px = stage.clientWidth / 2, py = stage.clientHeight / 2) {
  const to = Math.max(0.5, Math.min(12, picture.zoom * by));
  const grown = to / picture.zoom;
  const [mx, my] = [stage.clientWidth / 2, stage.clientHeight / 2];
  // The point under the pointer stays where it is.
  picture.panX = px - mx - (px - mx - picture.panX) * grown;
  picture.panY = py - my - (py - my - picture.panY) * grown;
  picture.zoom = to;
  draw();
}

let held = null;
stage.addEventListener("pointerdown", (event) => {
  held = { x: event.clientX, y: event.clientY, moved: false };
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!held) return;
  const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
  if (!held.moved && Math.abs(dx) + Math.abs(dy) < 5) return;
  stage.classList.add("held");
  Object.assign(held, { x: event.clientX, y: event.clientY, moved: true });
  picture.panX += dx;
  picture.panY += dy;
  draw();
});
stage.addEventListener("pointerup", (event) => {
  stage.classList.remove("held");
  if (held && !held.moved) choose(picture.find(event.offsetX, event.offsetY));
  held = null;
});
stage.addEventListener("pointercancel", () => { held = null; });
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });

// --- the rest -------------------------------------------------------------------------------------------------

byId("scrub").addEventListener("change", (event) => {
  const to = Number(event.target.value);
  rewind(() => to);
});
byId("scrub").addEventListener("input", (event) => {
  byId("step").textContent = `step ${event.target.value} of ${event.target.max}`;
});
byId("speed").addEventListener("change", () => { if (lab.playing) lab.rate = speed() * 1000; });
for (const id of ["show-liveness", "show-passive"]) byId(id).addEventListener("change", draw);
byId("find").addEventListener("input", (event) => {
  const name = event.target.value.trim().toUpperCase();
  const found = lab.state?.peers.findIndex((it) => it.name === name) ?? -1;
  if (found >= 0) choose(found);
});
byId("find").addEventListener("keydown", (event) => {
  if (event.key === "Enter") stage.focus();
});
byId("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  begin({ seed: Number(byId("seed").value), actions: `a${byId("count").value}.t5000`, origin: "" });
});

/** Shows another session from its start. */
function begin(session) {
  pause();
  queue.length = 0;
  enqueue(() => open(session));
}

async function open({ seed, actions, origin }) {
  const added = /^a(\d*)/.exec(actions);
  byId("seed").value = seed;
  byId("count").value = added ? added[1] || 1 : byId("count").value;
  Object.assign(lab, { seed, actions: "", full: "", origin, state: null, chosen: -1, clock: 0, target: 0 });
  layout.clear();
  picture.clear();
  if (await go(actions, { animate: false })) return;
  // An address that somebody mangled still shows the lab.
  const why = byId("status").textContent;
  Object.assign(lab, { seed: FIRST.seed, origin: "" });
  if (await go(FIRST.actions, { animate: false })) say(`The address cannot be shown. ${why}`, true);
}

window.addEventListener("hashchange", () => {
  const asked = fromHash(location.hash);
  if (asked && toHash(asked) !== toHash(lab)) begin(asked);
});
new ResizeObserver(() => { picture.ease(layout, 1); draw(); }).observe(stage);
panel.begin(() => { picture.recolour(); draw(); }, keys);
begin(fromHash(location.hash) ?? FIRST);
work();

// For tests, and for those who like the console.
window.flockLab = { lab, picture, layout, idle: () => !working && queue.length === 0 && !lab.playing };
