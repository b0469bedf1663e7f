// What was done, as the server reads it: words with dots between, in canonical form (see crates/sim, lab/actions.rs).
// Rewinding needs smaller pieces than words: a wait of ten seconds is ten steps.

/** Words that count, and how much of them is one step back. */
const STEP = { a: 1, m: 1, h: 1, t: 1000 };
/** A peer of more than this many is added in one step: nobody wants to rewind through a thousand. */
const ADD_STEPS_MAX = 12;

/** The parts of a word: its letter, the peer it names, its number. */
export function parts(word) {
  const found = /^([a-zA-Z])([A-Z]*)(\d*)$/.exec(word);
  if (!found) return { kind: "", name: "", number: 0 };
  return { kind: found[1], name: found[2], number: found[3] === "" ? 1 : Number(found[3]) };
}

/** How many steps a word has. */
function steps({ kind, number }) {
  const each = STEP[kind];
  if (!each || (kind === "a" && number > ADD_STEPS_MAX)) return 1;
  return Math.ceil(number / each);
}

export const split = (text) => (text === "" ? [] : text.split("."));
export const count = (text) => split(text).reduce((sum, word) => sum + steps(parts(word)), 0);

/** The first `wanted` steps of a text. */
export function cut(text, wanted) {
  const kept = [];
  let left = wanted;
  for (const word of split(text)) {
    if (left <= 0) break;
    const it = parts(word);
    const has = steps(it);
    if (has <= left) {
      kept.push(word);
      left -= has;
    } else {
      const number = left * STEP[it.kind];
      kept.push(it.kind + (number === 1 && it.kind !== "t" ? "" : number));
      left = 0;
    }
  }
  return kept.join(".");
}

export const join = (text, more) => (text === "" ? more : more === "" ? text : `${text}.${more}`);

/** In words, for the status line. */
export function tell(word) {
  const { kind, name, number } = parts(word);
  switch (kind) {
    case "a": return number === 1 ? "a peer joins" : `${number} peers join`;
    case "k": return `${name} falls silent`;
    case "K": return `${number} % fall silent`;
    case "r": return `${name} starts again`;
    case "l": return `${name} says goodbye`;
    case "s": return number === 0 ? `${name} is as fast as before` : `${name} is slowed down by ${number} ms`;
    case "b": return `${name} broadcasts`;
    case "m": return number === 1 ? "one message arrives" : `${number} messages arrive`;
    case "h": return number === 1 ? "one heartbeat" : `${number} heartbeats`;
    case "t": return `${(number / 1000).toFixed(number % 1000 ? 3 : 0)} s pass`;
    default: return word;
  }
}

/** Seed and actions from a page's address; null where there are none. */
export function fromHash(hash) {
  const found = new URLSearchParams(hash.replace(/^#/, ""));
  const seed = found.get("seed");
  if (seed === null || !/^\d{1,16}$/.test(seed)) return null;
  return { seed: Number(seed), actions: found.get("do") ?? "", origin: found.get("tree") ?? "" };
}

export function toHash({ seed, actions, origin }) {
  return `#seed=${seed}&do=${actions}${origin ? `&tree=${origin}` : ""}`;
}
