// Drives the flock lab's page in a real browser, as a person with a keyboard would.
//
//   node drive.mjs URL BROWSER [FOLDER FOR PICTURES]
//
// Ends with 0 when all is well, 1 when something is not; what it did is on standard output.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [base, executablePath, pictures] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  // As root there is no sandbox to be had; only our own page is opened.
  args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
});

const complaints = [];

/** A page of its own; nothing moves gradually on it unless asked for. */
async function open(hash = "", options = {}) {
  const size = { width: 1440, height: 900 };
  const context = await browser.newContext({ viewport: size, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.on("console", (message) => {
    // The browser notes every refusal that the page asked for and shows; those are part of the tests.
    if (message.type() === "error" && !message.text().includes("422") && !message.text().includes("400")) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(base)) complaints.push(`asked for ${request.url()}`);
  });
  await page.goto(base + hash);
  await page.waitForFunction(() => window.flockLab?.lab.state);
  return page;
}

/** Everything about the flock that the page holds, without what is on its way. */
const state = (page) => page.evaluate(() => {
  const { flights, ...rest } = window.flockLab.lab.state;
  return rest;
});

/** Waits until nothing is being asked for, and what is drawn has caught up. */
const quiet = (page) => page.waitForFunction(() => {
  const { lab } = window.flockLab;
  return window.flockLab.idle() && lab.clock >= lab.target;
});

async function press(page, ...keys) {
  for (const key of keys) {
    await page.keyboard.press(key);
    await quiet(page);
  }
}

async function picture(page, name) {
  await quiet(page);
  await page.waitForTimeout(400);
  if (pictures) await page.screenshot({ path: `${pictures}/${name}.png` });
}

async function step(name, doing) {
  const begun = Date.now();
  await doing();
  assert.deepEqual(complaints, [], name);
  console.log(`ok: ${name} (${Date.now() - begun} ms)`);
}

let shared = "";
let sharedState = null;

try {
  await step("everything can be done with keys alone", async () => {
    const page = await open();
    const status = () => page.textContent("#status");
    await press(page, "b");
    assert.match(await status(), /Choose a peer first/);
    await page.focus("#stage");
    await press(page, "Home", "b", "t", "t");
    let now = await state(page);
    assert.equal(now.peers.length, 12);
    assert.equal(now.parts, 1);
    assert.equal(now.broadcasts[0].from, "A");
    assert.equal(now.broadcasts[0].reached, 11);
    await press(page, "b", "t", "b", "t");
    now = await state(page);
    assert.equal(now.broadcasts[0].reached, 11);
    assert.ok(now.broadcasts[0].rmr <= now.broadcasts.at(-1).rmr, "the tree does not get worse");
    assert.equal(now.broadcasts[0].rmr, 0, "after two broadcasts nobody gets anything twice");

    await press(page, "b", "m", "m");
    const [before, after] = [now.now, (await state(page)).now];
    assert.ok(before < after && after < before + 1e6, "two messages take less than a second");
    await press(page, "h", "a", "Shift+A");
    assert.equal((await state(page)).peers.length, 23);
    await press(page, "t", "PageDown", "k");
    assert.equal((await state(page)).peers[1].up, false);
    await press(page, "k");
    await press(page, "t", "t", "t", "t", "r", "t", "t", "s");
    now = await state(page);
    assert.equal(now.peers[1].up, true);
    assert.equal(now.peers[1].runs, 2);
    assert.equal(now.peers[1].slow, 500);
    await press(page, "o", "l");
    now = await state(page);
    assert.equal(now.origin, 1);
    assert.equal(now.peers[1].up, false);
    await press(page, "ArrowRight", "ArrowUp", "End");
    assert.equal(await page.textContent("#chosen-name"), "Peer W");
    await press(page, "/");
    await page.keyboard.type("c");
    assert.equal(await page.textContent("#chosen-name"), "Peer C");
    await page.keyboard.press("Enter");
    await press(page, "Shift+K", "t", "t", "t", "t", "t", "t", "t");
    now = await state(page);
    assert.equal(now.up, 11);
    assert.equal(now.parts, 1, "survivors find together");
    shared = page.url();
    sharedState = now;
    await page.context().close();
  });

  await step("an address shows others the same, and rewinding shows what was", async () => {
    const page = await open(`/${new URL(shared).hash}`);
    assert.deepEqual(await state(page), sharedState);
    const places = (page) => page.evaluate(() => [window.flockLab.layout.x, window.flockLab.layout.y]);
    const other = await open(`/${new URL(shared).hash}`);
    assert.deepEqual(await places(other), await places(page), "the picture is the same, too");
    await other.context().close();
    const steps = Number(await page.getAttribute("#scrub", "max"));
    assert.ok(steps > 20, String(steps));
    await press(page, ...Array(9).fill(","));
    const back = await state(page);
    assert.ok(back.now < sharedState.now);
    assert.match(await page.textContent("#step"), new RegExp(`step ${steps - 9} of ${steps}`));
    await press(page, ".", ",");
    assert.deepEqual(await state(page), back);
    await press(page, ...Array(9).fill("."));
    assert.deepEqual(await state(page), sharedState);
    await page.focus("#scrub");
    await press(page, "Home");
    await page.waitForFunction(() => window.flockLab.lab.state.peers.length === 0);
    // Something new forgets what was rewound.
    await page.focus("#stage");
    await press(page, "a");
    assert.equal(await page.getAttribute("#scrub", "max"), "1");
    await page.context().close();
  });

  await step("an address that makes no sense is refused in words", async () => {
    const page = await open("/#seed=1&do=a3.kZ");
    assert.match(await page.textContent("#status"), /there is no peer Z yet/);
    assert.equal((await state(page)).peers.length, 12);
    await page.context().close();
  });

  await step("every control has a name, a visible focus and enough contrast", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open("", { colorScheme });
      const seen = new Set();
      for (let i = 0; i < 60; i += 1) {
        await page.keyboard.press("Tab");
        const at = await page.evaluate(() => {
          const it = document.activeElement;
          if (it === document.body) return null;
          const style = getComputedStyle(it);
          return { id: it.id || it.outerHTML.slice(0, 60), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, named: Boolean(it.ariaLabel || it.textContent.trim() || it.labels?.length || it.getAttribute("aria-labelledby")) };
        });
        if (!at) break;
        assert.ok(at.outline, `no focus to be seen on ${at.id}`);
        assert.ok(at.named, `no name on ${at.id}`);
        seen.add(at.id);
      }
      for (const id of ["stage", "play", "step-message", "add", "speed", "list", "scrub", "theme"]) assert.ok(seen.has(id), `${id} cannot be reached by Tab`);
      const poor = await page.evaluate(() => {
        const style = getComputedStyle(document.documentElement);
        const rgb = (name) => style.getPropertyValue(name).trim().slice(1).match(/../g).map((it) => parseInt(it, 16) / 255);
        const light = (name) => rgb(name).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
        const pairs = [["--ink", "--ground", 7], ["--ink", "--panel", 7], ["--soft", "--panel", 4.5], ["--soft", "--ground", 4.5], ["--strong-ink", "--strong", 4.5], ["--got-ink", "--got", 4.5], ["--bad", "--panel", 4.5], ["--link", "--ground", 3], ["--path", "--ground", 3], ["--focus", "--ground", 3], ["--chosen", "--ground", 3], ["--ihave", "--ground", 3], ["--graft", "--ground", 3], ["--prune", "--ground", 3], ["--membership", "--ground", 3], ["--facts", "--ground", 3]];
        return pairs.filter(([a, b, least]) => ratio(a, b) < least).map(([a, b]) => `${a} on ${b}: ${ratio(a, b).toFixed(2)}`);
      });
      assert.deepEqual(poor, [], colorScheme);
      await page.context().close();
    }
  });

  await step("the help names every key", async () => {
    const page = await open();
    await press(page, "?");
    const keys = await page.$$eval("#keys kbd", (all) => all.map((it) => it.textContent));
    for (const key of ["Space", "M", "H", "T", "A", "Shift+A", "K", "Shift+K", "R", "S", "L", "B", "O", ",", ".", "C", "D", "?"]) assert.ok(keys.includes(key), `${key} of ${keys}`);
    await picture(page, "help");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.querySelector("#help").open), false);
    await page.context().close();
  });

  await step("200 peers play smoothly", async () => {
    const page = await open("/#seed=5&do=a200.t15000.bA.t3000.bA.t3000.bA.t2000.sF500.bA.t120&tree=A", { reducedMotion: "no-preference" });
    let now = await state(page);
    assert.equal(now.parts, 1);
    await page.focus("#stage");
    await page.keyboard.press("Home");
    await picture(page, "200-light");
    const figures = await page.evaluate(() => new Promise((resolve) => {
      window.flockLab.picture.frames.length = 0;
      document.querySelector("#play").click();
      const begun = performance.now();
      let frames = 0;
      const tick = () => {
        frames += 1;
        const passed = performance.now() - begun;
        if (passed < 3000) requestAnimationFrame(tick);
        else resolve({ perSecond: frames / passed * 1000, drawing: window.flockLab.picture.cost() });
      };
      requestAnimationFrame(tick);
    }));
    console.log(`    ${figures.perSecond.toFixed(0)} frames a second; drawing takes ${figures.drawing.middle.toFixed(1)} ms, at worst ${figures.drawing.worst.toFixed(1)} ms`);
    const played = await state(page);
    assert.ok(played.now > now.now, "time has passed");
    await press(page, " ");
    await page.context().close();
  });

  await step("dark and light, small and large", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const small = await open("/#seed=3&do=a12.t9000.bF.t2000.bF.t2000.bF.t55&tree=F", { colorScheme });
      await small.focus("#stage");
      await small.keyboard.press("Home");
      await picture(small, `12-${colorScheme}`);
      await small.context().close();
      const mended = await open("/#seed=5&do=a200.t15000.bC.t2000.K30.t1500.sB500.bC.t140&tree=C", { colorScheme });
      await mended.focus("#stage");
      await picture(mended, `200-killed-${colorScheme}`);
      if (colorScheme === "dark") {
        await press(mended, "d", "d");
        assert.equal(await mended.evaluate(() => document.documentElement.dataset.theme), "dark");
        await press(mended, "d", "d");
        assert.equal(await mended.evaluate(() => document.documentElement.dataset.theme), "light");
        await press(mended, "d");
      }
      await mended.context().close();
    }
    const phone = await open("/#seed=3&do=a12.t9000.bF.t3000&tree=F", { viewport: { width: 420, height: 820 } });
    assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), "nothing sticks out");
    await picture(phone, "narrow");
    await phone.context().close();
  });
  console.log("all is well");
} catch (error) {
  console.log(`NOT OK: ${error.message}`);
  console.log(error.stack);
  if (complaints.length > 0) console.log("complaints of the browser:", complaints);
  process.exitCode = 1;
} finally {
  await browser.close();
}
