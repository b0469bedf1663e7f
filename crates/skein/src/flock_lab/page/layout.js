// Where each peer is drawn: springs along the links, repulsion between all. No luck and no clock: the same sequence of
// states gives the same places. Each new state moves the places on by a fixed number of rounds, so that the
// picture stays recognisable; the page eases what it draws towards them.

const ROUNDS_NEW = 260;
const ROUNDS_CHANGED = 45;
const GOLDEN_ANGLE = Math.PI * (3 - Math.sqrt(5));

export class Layout {
  constructor() {
    this.x = [];
    this.y = [];
    this.shape = "";
  }

  clear() {
    this.x.length = 0;
    this.y.length = 0;
    this.shape = "";
  }

  /** Takes in a state: how many peers, which are up, links as pairs of numbers. Gives whether places may have moved. */
  update(count, up, links, { afresh = false } = {}) {
    const shape = `${count}|${up.map((it) => (it ? 1 : 0)).join("")}|${links.map(([a, b]) => `${a}-${b}`).join()}`;
    if (shape === this.shape && !afresh) return false;
    if (count < this.x.length || afresh) this.clear();
    const before = this.x.length;
    const mostlyNew = count - before > before / 2;
    this.place(count, links, mostlyNew);
    const rounds = mostlyNew ? ROUNDS_NEW : ROUNDS_CHANGED;
    // A big flock gets fewer rounds, so that no state takes longer than a moment.
    const affordable = Math.max(12, Math.floor(1.6e7 / Math.max(1, count * count)));
    this.relax(up, links, Math.min(rounds, affordable), mostlyNew);
    this.shape = shape;
    return true;
  }

  /** A few new peers begin beside a neighbour that has a place, many on a spiral: beside each other they would tangle. */
  place(count, links, many) {
    const scale = 60;
    for (let i = this.x.length; i < count; i += 1) {
      const near = many ? undefined : links.find(([a, b]) => (a === i && b < i) || (b === i && a < i));
      const angle = i * GOLDEN_ANGLE;
      if (near) {
        const other = near[0] === i ? near[1] : near[0];
        this.x.push(this.x[other] + Math.cos(angle) * scale * 0.6);
        this.y.push(this.y[other] + Math.sin(angle) * scale * 0.6);
      } else {
        const radius = scale * 0.62 * Math.sqrt(i + 0.5);
        this.x.push(Math.cos(angle) * radius);
        this.y.push(Math.sin(angle) * radius);
      }
    }
  }

  /** Fruchterman and Reingold's forces with a pull to the middle, cooling down. */
  relax(up, links, rounds, hot) {
    const { x, y } = this;
    const n = x.length;
    const want = 62;
    const fx = new Float64Array(n);
    const fy = new Float64Array(n);
    const reach = want * 9;
    for (let round = 0; round < rounds; round += 1) {
      fx.fill(0);
      fy.fill(0);
      for (let i = 0; i < n; i += 1) {
        for (let j = i + 1; j < n; j += 1) {
          const dx = x[i] - x[j];
          const dy = y[i] - y[j];
          const squared = dx * dx + dy * dy + 0.01;
          if (squared > reach * reach) continue;
          // The dead hold nobody off: they stay near the rim, where they do not shrink the picture.
          const push = ((want * want) / squared) * (up[i] && up[j] ? 1 : 0.06);
          fx[i] += dx * push;
          fy[i] += dy * push;
          fx[j] -= dx * push;
          fy[j] -= dy * push;
        }
      }
      for (const [a, b] of links) {
        const dx = x[a] - x[b];
        const dy = y[a] - y[b];
        const pull = Math.sqrt(dx * dx + dy * dy) / want * 0.55;
        fx[a] -= dx * pull;
        fy[a] -= dy * pull;
        fx[b] += dx * pull;
        fy[b] += dy * pull;
      }
      const heat = (hot ? 60 : 9) * (1 - round / rounds) + 0.4;
      for (let i = 0; i < n; i += 1) {
        const gravity = up[i] ? 0.05 : 0.1;
        const gx = fx[i] - x[i] * gravity;
        const gy = fy[i] - y[i] * gravity;
        const length = Math.sqrt(gx * gx + gy * gy) || 1;
        const step = Math.min(length, heat);
        x[i] += (gx / length) * step;
        y[i] += (gy / length) * step;
      }
    }
  }

  bounds() {
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < this.x.length; i += 1) {
      left = Math.min(left, this.x[i]);
      right = Math.max(right, this.x[i]);
      top = Math.min(top, this.y[i]);
      bottom = Math.max(bottom, this.y[i]);
    }
    return this.x.length ? { left, top, right, bottom } : { left: -1, top: -1, right: 1, bottom: 1 };
  }
}
