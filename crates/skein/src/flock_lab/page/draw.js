// The picture: links, messages on their way, peers and their names, on a canvas. It is told a state, places and a
// time, and draws them; it decides nothing.

const COLOURS = ["ground", "panel", "ink", "soft", "node", "node-rim", "dead", "link", "lazy", "path", "got", "got-ink", "chosen", "origin", "payload", "payload-rim", "ihave", "graft", "prune", "membership", "facts", "liveness", "focus"];

/** How much more one direction may be stretched than the other. */
const STRETCH_MAX = 1.5;

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.ink = canvas.getContext("2d");
    this.x = [];
    this.y = [];
    this.zoom = 1;
    this.panX = 0;
    this.panY = 0;
    this.fit = { scale: 1, wide: 1, tall: 1, x: 0, y: 0 };
    this.frames = [];
    this.recolour();
  }

  clear() {
    this.x.length = 0;
    this.y.length = 0;
    Object.assign(this, { zoom: 1, panX: 0, panY: 0 });
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    this.colour = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  /** Moves what is drawn towards where peers should be; says whether there is more to come. */
  ease(layout, part) {
    let moving = false;
    const n = layout.x.length;
    if (this.x.length > n) {
      this.x.length = n;
      this.y.length = n;
    }
    for (let i = 0; i < n; i += 1) {
      if (i >= this.x.length) {
        this.x.push(layout.x[i]);
        this.y.push(layout.y[i]);
        continue;
      }
      const dx = layout.x[i] - this.x[i];
      const dy = layout.y[i] - this.y[i];
      if (part >= 1 || Math.abs(dx) + Math.abs(dy) < 0.2) {
        this.x[i] = layout.x[i];
        this.y[i] = layout.y[i];
      } else {
        this.x[i] += dx * part;
        this.y[i] += dy * part;
        moving = true;
      }
    }
    return moving | this.frame(layout, part);
  }

  /** Fits everything into the canvas, as gently as the peers move. */
  frame(layout, part) {
    const { width, height } = this.size();
    const { left, top, right, bottom } = layout.bounds();
    const edge = { side: 46, top: 62, bottom: 48 };
    const [sx, sy] = [(width - 2 * edge.side) / Math.max(60, right - left), (height - edge.top - edge.bottom) / Math.max(60, bottom - top)];
    // The wider way is stretched a little, so that a wide window is used.
    const scale = Math.max(0.02, Math.min(sx, sy, 2.6));
    const want = { scale, wide: Math.min(sx, scale * STRETCH_MAX), tall: Math.min(sy, scale * STRETCH_MAX) };
    want.x = width / 2 - ((left + right) / 2) * want.wide;
    want.y = (height + edge.top - edge.bottom) / 2 - ((top + bottom) / 2) * want.tall;
    const before = this.fit;
    const near = Math.abs(before.x - want.x) + Math.abs(before.y - want.y) < 0.5 && Math.abs(before.scale - want.scale) < 0.001;
    const by = part >= 1 || near ? 1 : part;
    this.fit = Object.fromEntries(Object.keys(want).map((key) => [key, before[key] + (want[key] - before[key]) * by]));
    return by < 1;
  }

  size() {
    return { width: this.canvas.clientWidth || 1, height: this.canvas.clientHeight || 1 };
  }

  at(i) {
    const { width, height } = this.size();
    const sx = this.x[i] * this.fit.wide + this.fit.x;
    const sy = this.y[i] * this.fit.tall + this.fit.y;
    return [(sx - width / 2) * this.zoom + width / 2 + this.panX, (sy - height / 2) * this.zoom + height / 2 + this.panY];
  }

  /** Which peer is at a point of the canvas; -1 where none is. */
  find(px, py) {
    let best = -1;
    let least = 20 * 20;
    for (let i = 0; i < this.x.length; i += 1) {
      const [x, y] = this.at(i);
      const squared = (x - px) ** 2 + (y - py) ** 2;
      if (squared < least) [best, least] = [i, squared];
    }
    return best;
  }

  /** The nearest peer from `i` in a direction; `i` itself where none is. */
  towards(i, dx, dy) {
    let best = i;
    let least = Infinity;
    for (let j = 0; j < this.x.length; j += 1) {
      if (j === i) continue;
      const ax = this.x[j] - this.x[i];
      const ay = this.y[j] - this.y[i];
      const along = ax * dx + ay * dy;
      const across = Math.abs(ax * dy - ay * dx);
      if (along <= 0 || across > along * 1.4) continue;
      const cost = along + across * 1.5;
      if (cost < least) [best, least] = [j, cost];
    }
    return best;
  }

  draw({ state, clock, chosen, origin, passive, liveness }) {
    const begun = performance.now();
    const { ink, colour } = this;
    const { width, height } = this.size();
    const dots = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * dots) || this.canvas.height !== Math.round(height * dots)) {
      this.canvas.width = Math.round(width * dots);
      this.canvas.height = Math.round(height * dots);
    }
    ink.setTransform(dots, 0, 0, dots, 0, 0);
    ink.clearRect(0, 0, width, height);
    if (!state) return;
    const n = Math.min(state.peers.length, this.x.length);
    const where = Array.from({ length: n }, (_, i) => this.at(i));
    const radius = Math.max(3.5, Math.min(15, 12 * Math.sqrt(this.fit.scale * this.zoom), 190 / Math.sqrt(n + 1)));

    this.links(state, where, radius, chosen);
    this.passiveViews(state, where, chosen);
    this.messages(state, where, clock, radius, liveness);
    this.peers(state, where, radius, { chosen, origin, passive });

    this.frames.push(performance.now() - begun);
    if (this.frames.length > 240) this.frames.shift();
  }

  links(state, where, radius, chosen) {
    const { ink, colour } = this;
    const [lazy, eager, near, broken] = [new Path2D(), new Path2D(), new Path2D(), new Path2D()];
    const line = (path, a, b) => {
      path.moveTo(...where[a]);
      path.lineTo(...where[b]);
    };
    for (const [a, b, flags] of state.edges) {
      if (a >= where.length || b >= where.length) continue;
      line(flags & 4 ? broken : flags & 3 ? eager : lazy, a, b);
      if (a === chosen || b === chosen) line(near, a, b);
    }
    // Of thousands of links each has to be faint, or all become one.
    const alpha = Math.max(0.25, Math.min(1, Math.sqrt(700 / (state.edges.length + 1))));
    ink.lineCap = "round";
    ink.globalAlpha = alpha;
    ink.strokeStyle = colour.lazy;
    ink.lineWidth = 1.1;
    ink.setLineDash([4, 5]);
    ink.stroke(lazy);
    // To a peer that is down, which the other end has not noticed yet.
    ink.strokeStyle = colour.dead;
    ink.setLineDash([1.5, 3]);
    ink.stroke(broken);
    ink.setLineDash([]);
    ink.strokeStyle = colour.link;
    ink.lineWidth = where.length > 80 ? 1.2 : 1.7;
    ink.stroke(eager);
    ink.globalAlpha = 1;
    if (chosen >= 0) {
      ink.strokeStyle = colour.chosen;
      ink.globalAlpha = 0.45;
      ink.lineWidth = 5;
      ink.stroke(near);
      ink.globalAlpha = 1;
    }
    // The way that the chosen message took, from parent to child.
    const [ways, heads] = [new Path2D(), new Path2D()];
    state.peers.forEach((peer, i) => {
      const parent = peer.from;
      if (parent === undefined || parent === null || i >= where.length || parent >= where.length) return;
      line(ways, parent, i);
      const [[x0, y0], [x1, y1]] = [where[parent], where[i]];
      const angle = Math.atan2(y1 - y0, x1 - x0);
      const [tx, ty] = [x1 - Math.cos(angle) * (radius + 1), y1 - Math.sin(angle) * (radius + 1)];
      const size = Math.max(4, radius * 0.62);
      heads.moveTo(tx, ty);
      heads.lineTo(tx - size * Math.cos(angle - 0.42), ty - size * Math.sin(angle - 0.42));
      heads.lineTo(tx - size * Math.cos(angle + 0.42), ty - size * Math.sin(angle + 0.42));
      heads.closePath();
    });
    ink.strokeStyle = colour.path;
    ink.fillStyle = colour.path;
    ink.lineWidth = where.length > 80 ? 2 : 2.8;
    ink.stroke(ways);
    ink.fill(heads);
  }

  /** Thin dotted lines from the chosen peer to those in its passive view. */
  passiveViews(state, where, chosen) {
    const peer = state.peers[chosen];
    if (!peer || chosen >= where.length) return;
    const { ink, colour } = this;
    ink.beginPath();
    for (const other of peer.passive) {
      if (other >= where.length) continue;
      ink.moveTo(...where[chosen]);
      ink.lineTo(...where[other]);
    }
    ink.strokeStyle = colour.chosen;
    ink.globalAlpha = 0.4;
    ink.lineWidth = 1;
    ink.setLineDash([1.5, 4.5]);
    ink.stroke();
    ink.setLineDash([]);
    ink.globalAlpha = 1;
  }

  messages(state, where, clock, radius, liveness) {
    const { ink, colour } = this;
    const size = Math.max(3, Math.min(6.5, radius * 0.55));
    for (const [from, to, kind, sent, arrives] of state.flights) {
      if (clock < sent || arrives < clock || from >= where.length || to >= where.length) continue;
      const what = state.kinds[kind];
      if (what === "liveness" && !liveness) continue;
      const part = arrives > sent ? (clock - sent) / (arrives - sent) : 1;
      const [[x0, y0], [x1, y1]] = [where[from], where[to]];
      const [x, y] = [x0 + (x1 - x0) * part, y0 + (y1 - y0) * part];
      ink.beginPath();
      switch (what) {
        case "payload":
          ink.arc(x, y, size, 0, 7);
          ink.fillStyle = colour.payload;
          ink.fill();
          ink.strokeStyle = colour["payload-rim"];
          ink.lineWidth = 1.2;
          ink.stroke();
          break;
        case "ihave":
          ink.arc(x, y, size * 0.75, 0, 7);
          ink.strokeStyle = colour.ihave;
          ink.lineWidth = 1.8;
          ink.stroke();
          break;
        case "graft":
          ink.moveTo(x, y - size * 1.1);
          ink.lineTo(x + size, y + size * 0.8);
          ink.lineTo(x - size, y + size * 0.8);
          ink.fillStyle = colour.graft;
          ink.fill();
          break;
        case "prune":
          ink.moveTo(x - size * 0.8, y - size * 0.8);
          ink.lineTo(x + size * 0.8, y + size * 0.8);
          ink.moveTo(x + size * 0.8, y - size * 0.8);
          ink.lineTo(x - size * 0.8, y + size * 0.8);
          ink.strokeStyle = colour.prune;
          ink.lineWidth = 2.2;
          ink.stroke();
          break;
        case "membership":
          ink.rect(x - size * 0.72, y - size * 0.72, size * 1.44, size * 1.44);
          ink.fillStyle = colour.membership;
          ink.fill();
          break;
        case "liveness":
          ink.arc(x, y, size * 0.42, 0, 7);
          ink.fillStyle = colour.liveness;
          ink.fill();
          break;
        default:
          ink.moveTo(x, y - size);
          ink.lineTo(x + size, y);
          ink.lineTo(x, y + size);
          ink.lineTo(x - size, y);
          ink.fillStyle = colour.facts;
          ink.fill();
      }
    }
  }

  peers(state, where, radius, { chosen, origin, passive }) {
    const { ink, colour } = this;
    const n = where.length;
    const big = radius >= 9;
    const near = new Set(chosen >= 0 && state.peers[chosen] ? [chosen, ...state.peers[chosen].links] : []);
    ink.textAlign = "center";
    ink.textBaseline = "middle";
    for (let i = 0; i < n; i += 1) {
      const peer = state.peers[i];
      const [x, y] = where[i];
      const got = peer.hops !== undefined && peer.hops !== null;
      ink.beginPath();
      if (peer.slow > 0) ink.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
      else ink.arc(x, y, radius, 0, 7);
      ink.fillStyle = !peer.up ? colour.ground : got ? colour.got : colour.node;
      ink.fill();
      ink.strokeStyle = peer.up ? (got ? colour.path : colour["node-rim"]) : colour.dead;
      ink.lineWidth = peer.up ? 1.6 : 1.2;
      if (!peer.up) ink.setLineDash([2, 2.5]);
      ink.stroke();
      ink.setLineDash([]);
      if (!peer.up) {
        const arm = radius * 0.62;
        ink.beginPath();
        ink.moveTo(x - arm, y - arm);
        ink.lineTo(x + arm, y + arm);
        ink.moveTo(x + arm, y - arm);
        ink.lineTo(x - arm, y + arm);
        ink.stroke();
      }
      if (i === origin) {
        ink.beginPath();
        ink.arc(x, y, radius + 3.5, 0, 7);
        ink.strokeStyle = colour.origin;
        ink.lineWidth = 2.6;
        ink.stroke();
      }
      if (i === chosen) {
        ink.beginPath();
        ink.arc(x, y, radius + 7.5, 0, 7);
        ink.strokeStyle = colour.chosen;
        ink.lineWidth = 3;
        ink.stroke();
      }
      if (big && peer.up) {
        ink.font = `600 ${Math.round(Math.min(13, radius * (peer.name.length > 2 ? 0.72 : 0.95)))}px system-ui, "DejaVu Sans", sans-serif`;
        ink.fillStyle = got ? colour["got-ink"] : colour.ink;
        ink.fillText(peer.name, x, y + 0.5);
      }
    }
    // Words last, so that nothing crosses them. In a crowd only the chosen peer has room for its passive view.
    const crowd = n > 24;
    for (let i = 0; i < n; i += 1) {
      const peer = state.peers[i];
      const inView = passive === "all" || (passive === "near" && (crowd ? i === chosen : near.has(i) || (chosen < 0 && n <= 16)));
      const outside = !big || !peer.up;
      const named = outside && (n <= 60 || near.has(i) || i === origin || passive === "all");
      const view = inView && peer.up ? `[${brackets(peer.passive, state, crowd ? 5 : 8)}]` : "";
      const text = named ? `${peer.name} ${view}`.trim() : view;
      if (text === "") continue;
      const [x, y] = where[i];
      ink.font = `${named ? 600 : 400} 11.5px system-ui, "DejaVu Sans", sans-serif`;
      ink.lineJoin = "round";
      ink.lineWidth = 3.5;
      ink.strokeStyle = colour.ground;
      ink.globalAlpha = 0.85;
      const below = y + radius + (i === chosen ? 16 : 10);
      ink.strokeText(text, x, below);
      ink.globalAlpha = 1;
      ink.fillStyle = peer.up ? colour.ink : colour.soft;
      ink.fillText(text, x, below);
    }
  }

  /** Milliseconds that drawing took lately: the middle and the slowest of the last frames. */
  cost() {
    const sorted = [...this.frames].sort((a, b) => a - b);
    return { middle: sorted[sorted.length >> 1] ?? 0, worst: sorted[sorted.length - 1] ?? 0, frames: sorted.length };
  }
}

/** Names of a passive view, shortened: `A, C, G` or `A, C, … +20`. */
export function brackets(view, state, most) {
  const names = view.slice(0, most).map((it) => state.peers[it]?.name ?? "?");
  return view.length > most ? `${names.join(", ")}, … +${view.length - most}` : names.join(", ");
}
