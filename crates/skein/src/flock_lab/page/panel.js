// Everything beside the picture: numbers, the chosen peer, broadcasts, the histogram, the list of peers, keys, theme.
import { count } from "./actions.js";
import { brackets } from "./draw.js";

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const seconds = (micros) => `${(micros / 1e6).toFixed(3)} s`;
const millis = (micros) => (micros < 10e6 ? `${Math.round(micros / 1e3)} ms` : `${(micros / 1e6).toFixed(1)} s`);

/** Pairs of a term and what is said of it. */
function facts(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
}

// --- with every state -----------------------------------------------------------------------------------------

export function show(lab, { choose, look }) {
  const { state } = lab;
  byId("up").textContent = `${state.up} of ${state.peers.length}`;
  byId("links").textContent = state.edges.length;
  byId("parts").textContent = state.parts;
  byId("tree").textContent = state.origin === null ? "all links:" : `tree of ${state.peers[state.origin].name}:`;
  const [done, total] = [count(lab.actions), count(lab.full)];
  const scrub = byId("scrub");
  scrub.max = total;
  scrub.value = done;
  scrub.setAttribute("aria-valuetext", `step ${done} of ${total}`);
  byId("step").textContent = `step ${done} of ${total}`;
  byId("back").disabled = done === 0;
  byId("forward").disabled = done === total;
  broadcasts(lab, look);
  degrees(state);
  facts(byId("messages"), state.sent.map((it) => [TOLD[it.kind] ?? it.kind, `${it.messages.toLocaleString("en")} (${bytes(it.bytes)})`]));
  chosen(lab, { choose });
}

const TOLD = { liveness: "heartbeats", membership: "membership", payload: "payload", ihave: "“I have”", graft: "graft", prune: "prune", facts: "facts", query: "queries", health: "health" };

const bytes = (n) => (n < 10_000 ? `${n} B` : n < 10_000_000 ? `${(n / 1000).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`);

/** With every frame: what depends on the drawn time. */
export function tick(lab) {
  byId("time").textContent = seconds(lab.clock);
  const { flights = [], kinds = [] } = lab.state ?? {};
  const heartbeats = byId("show-liveness").checked;
  const shown = ([, , kind, sent, arrives]) => sent <= lab.clock && lab.clock < arrives && (heartbeats || kinds[kind] !== "liveness");
  byId("flying").textContent = flights.filter(shown).length;
}

function broadcasts(lab, look) {
  const rows = lab.state.broadcasts.map((it) => {
    const row = element("tr", { "aria-current": it.shown ? "true" : null, class: it.reached < it.expected ? "short" : null },
      element("td", {}, element("button", { type: "button", title: `Show the tree of ${it.from}`, onclick: () => look(it.from) }, it.from)),
      element("td", {}, `${it.reached}/${it.expected}`),
      element("td", {}, it.reached > 0 ? it.rmr.toFixed(2) : "–"),
      element("td", {}, it.reached > 0 ? it.ldh : "–"),
      element("td", {}, it.reached > 0 ? millis(it.ldt) : "–"),
      element("td", {}, it.control));
    return row;
  });
  if (rows.length === 0) rows.push(element("tr", {}, element("td", { colspan: 6 }, "none yet: choose a peer and press B")));
  byId("broadcasts").tBodies[0].replaceChildren(...rows);
}

function degrees(state) {
  const found = state.degrees;
  const most = Math.max(1, ...found);
  const [width, height, floor, top] = [340, 92, 76, 14];
  const each = width / Math.max(8, found.length);
  const bars = found.map((peers, links) => {
    const tall = (peers / most) * (floor - top);
    const x = links * each;
    const label = peers > 0 ? `<text x="${x + each / 2}" y="${floor - tall - 3}">${peers}</text>` : "";
    return `<rect x="${x + 2}" y="${floor - tall}" width="${each - 4}" height="${tall}"/>${label}<text x="${x + each / 2}" y="${height - 3}">${links}</text>`;
  });
  const box = byId("degrees");
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">${bars.join("")}</svg>`;
  box.setAttribute("aria-label", found.map((peers, links) => (peers > 0 ? `${peers} with ${links} links` : "")).filter(Boolean).join(", ") || "no peers");
}

// --- the chosen peer ------------------------------------------------------------------------------------------

export function chosen(lab, { choose }) {
  const { state } = lab;
  const peer = state?.peers[lab.chosen];
  byId("chosen-name").textContent = peer ? `Peer ${peer.name}${peer.up ? "" : " (down)"}` : "No peer chosen";
  for (const id of ["broadcast", "kill", "leave"]) byId(id).disabled = !peer?.up;
  byId("slow").disabled = !peer;
  byId("slow").firstChild.textContent = peer?.slow > 0 ? "Speed up " : "Slow down ";
  byId("restart").disabled = !peer || peer.up;
  byId("origin").disabled = !peer;
  byId("origin").setAttribute("aria-pressed", String(Boolean(peer) && lab.origin === peer.name));
  facts(byId("chosen-facts"), peer ? about(peer, lab.chosen, state) : []);
  list(lab, choose);
}

function about(peer, index, state) {
  const said = [["links", peer.links.map((it) => state.peers[it].name).join(", ") || "none"]];
  const eager = state.edges.flatMap(([a, b, flags]) => (a === index && flags & 1 ? [b] : b === index && flags & 2 ? [a] : []));
  if (state.origin !== null) said.push([`eager for ${state.peers[state.origin].name}`, eager.map((it) => state.peers[it].name).join(", ") || "none"]);
  said.push(["passive view", `[${brackets(peer.passive, state, 40)}]`]);
  if (peer.slow > 0) said.push(["slowed down by", `${peer.slow} ms`]);
  if (peer.hops !== undefined) said.push(["last message", peer.from === undefined ? "its own" : `from ${state.peers[peer.from].name}, ${peer.hops} ${peer.hops === 1 ? "link" : "links"} from its origin`]);
  said.push(["runs", `${peer.runs}`], ["state", `${peer.bytes.toLocaleString("en")} bytes`]);
  return said;
}

// --- the list -------------------------------------------------------------------------------------------------

function list(lab, choose) {
  const box = byId("list");
  const { peers } = lab.state ?? { peers: [] };
  while (box.children.length > peers.length) box.lastChild.remove();
  while (box.children.length < peers.length) {
    const index = box.children.length;
    box.append(element("li", { role: "option", id: `peer-${index}`, onclick: () => choose(index) }));
  }
  peers.forEach((peer, index) => {
    const item = box.children[index];
    const views = peer.up ? ` – ${peer.links.map((it) => peers[it].name).join(" ") || "alone"}` : " (down)";
    const text = `${peer.name}${views}${peer.slow > 0 ? " (slow)" : ""}`;
    if (item.textContent !== text) item.textContent = text;
    item.classList.toggle("down", !peer.up);
    item.setAttribute("aria-selected", String(index === lab.chosen));
  });
  if (lab.chosen >= 0) {
    box.setAttribute("aria-activedescendant", `peer-${lab.chosen}`);
    const item = box.children[lab.chosen];
    if (item.offsetTop < box.scrollTop + box.offsetTop || item.offsetTop + item.offsetHeight > box.scrollTop + box.offsetTop + box.clientHeight) {
      box.scrollTop = item.offsetTop - box.offsetTop - box.clientHeight / 2;
    }
  } else box.removeAttribute("aria-activedescendant");
}

// --- once -----------------------------------------------------------------------------------------------------

export function playing(on) {
  byId("play").firstChild.textContent = on ? "Pause " : "Play ";
  byId("play").setAttribute("aria-pressed", String(on));
}

const THEMES = ["system", "light", "dark"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let theme = "system";

function paint() {
  document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
  byId("theme").firstChild.textContent = `Theme: ${theme} `;
}

export function nextTheme(then) {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("flock-lab-theme", theme);
  } catch {
    // Kept for this visit only.
  }
  paint();
  then();
}

const MORE_KEYS = [
  ["arrows", "on the picture: the neighbouring peer in that direction"],
  ["PgUp PgDn", "on the picture: the peer before or after, by name"],
  ["/", "find a peer by its name"],
  ["Esc", "choose no peer; leave a field"],
  ["+ −", "faster, slower"],
  ["P", "passive views: near the chosen, of all, of none"],
  ["V", "show heartbeats on their way"],
  ["G", "lay the picture out afresh"],
  ["Z X 0", "zoom in, out, fit"],
];
const LONGER = { "step-message": "until one message has arrived", "step-heartbeat": "one heartbeat interval", "step-second": "one second", back: "back one step", forward: "forward one step", origin: "the tree of the chosen peer, or none", "add-ten": "add ten peers", "kill-half": "kill half of the peers", add: "add a peer" };

export function begin(repaint, keys) {
  try {
    const kept = localStorage.getItem("flock-lab-theme");
    if (THEMES.includes(kept)) theme = kept;
  } catch {
    // Then the system's.
  }
  paint();
  repaint();
  dark.addEventListener("change", () => { paint(); repaint(); });
  const shown = { " ": "Space" };
  const all = [...keys].map(([key, button]) => {
    const told = LONGER[button.id] ?? button.firstChild.textContent.trim().toLowerCase();
    const acts = ["broadcast", "kill", "restart", "slow", "leave"].includes(button.id) ? `${told} (the chosen peer)` : told;
    return [shown[key] ?? (key.length === 1 ? key.toUpperCase() : key), acts.replace(/^theme.*/, "theme: system, light, dark").replace(/^keys$/, "these keys")];
  });
  byId("keys").replaceChildren(...[...all, ...MORE_KEYS].flatMap(([key, told]) => [element("kbd", {}, key), element("span", {}, told)]));
}
