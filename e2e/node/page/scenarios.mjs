// What a person does with the page, and what they have to see then. Each scenario
// gets a browser context and a function that opens the page.

import { execFileSync } from "node:child_process";

import { accessible, ask, call, check, drop, equal, look, result, setup, state, until } from "./browser.mjs";

const text = (page, selector) => page.textContent(selector);

/** A function without a payload, by its form; then the same in Chinese. */
export async function hello(context, open) {
  const page = await open();
  await look(page, "empty");
  await call(page, "hello", { kwargs: { name: "aipod" } });
  await state(page, "succeeded");
  equal((await result(page)).hello, "aipod", "the result");
  await page.waitForSelector(".tree .string");
  await look(page, "hello");
  await page.click("header button[lang]");
  await page.waitForSelector("html[lang=zh-CN]");
  equal(await text(page, "#call-title"), "调用函数", "the form's title");
  equal(await text(page, "#job .chip"), "完成", "the job's state");
  await look(page, "hello-zh");
  await page.reload();
  await page.waitForSelector("#job .chip.succeeded");
  equal(await text(page, "#call-title"), "调用函数", "the form's title after a reload");
}

/** Trains and predicts by dropping files. */
export async function iris(context, open) {
  const page = await open();
  await page.selectOption("#function", "train");
  await page.fill("#kwarg-target", "species");
  await page.fill("#version", "iris");
  await drop(page, "#call .drop", [setup.iris]);
  await page.waitForSelector(".files .name");
  await look(page, "train-form");
  await page.click("button[type=submit]");
  await state(page, "succeeded");
  const trained = await result(page);
  check(trained.accuracy >= 0.9, `an accuracy of ${trained.accuracy}`);
  await until("the log", async () => (await text(page, ".log")).includes("converged"));
  await look(page, "trained");
  await until("the version among the choices", () => page.$("#versions option[value=iris]"));

  await page.selectOption("#function", "predict");
  await drop(page, "header", [setup.iris]); // beside the zone, which takes it all the same
  await page.click("button[type=submit]");
  await page.waitForSelector("table");
  const rows = await page.$$eval("tbody tr", (rows) => rows.map((row) => row.cells[0].textContent));
  equal(rows.length, 150, "rows of the table");
  const right = rows.filter((label, i) => label === ["setosa", "versicolor", "virginica"][Math.floor(i / 50)]).length;
  check(right >= 140, `${right} of 150 labels are right`);
  equal(await page.$$eval("th", (heads) => heads.map((th) => th.textContent)),
    ["labels", "probabilities setosa", "probabilities versicolor", "probabilities virginica"], "the table's head");
  await look(page, "predicted");

  // Several files are as many jobs.
  await page.setInputFiles("#files", [setup.iris, setup.iris, setup.iris]);
  equal(await text(page, "button[type=submit]"), "Run 3 jobs", "the button");
  await page.click("button[type=submit]");
  await until("three more jobs", async () => (await page.$$(".jobs .chip.succeeded")).length === 5);
}

/** What an echo gives back is shown as what it is. */
export async function kinds(context, open) {
  const page = await open();
  const expected = { "a.png": ".result img", "a.wav": ".result audio", "a.csv": ".result table", "a.txt": ".result pre", "a.json": ".result .tree", "a.bin": ".result .hint" };
  for (const [name, selector] of Object.entries(expected)) {
    await call(page, "chaos", { files: [`${setup.files}/${name}`] });
    await until(`${name} in the list`, async () => (await text(page, ".jobs li:first-child .file")) === name);
    await page.waitForSelector(selector);
    await state(page, "succeeded");
  }
  await page.click(".jobs li:nth-child(6) button"); // the picture
  await page.waitForSelector(".result img");
  await until("the picture", () => page.$eval(".result img", (img) => img.naturalWidth > 0));
  await look(page, "picture");
  await page.click(".jobs li:nth-child(4) button");
  await page.waitForSelector(".result table");
  equal(await page.$$eval("td", (cells) => cells.map((td) => td.textContent)), ['say "a, b"', "1", "", "2"], "the cells");
}

/** A large upload, paused, and the pod killed in its midst. */
export async function upload(context, open) {
  const page = await open();
  await call(page, "sha256", { files: [setup.file] });
  const percent = async () => parseInt(await page.$eval(".progress strong", (e) => e.textContent).catch(() => "0"), 10);
  await until("some percent", async () => (await percent()) >= 10);
  await page.click(".progress button");
  await page.waitForSelector("#job .chip.receiving >> text=paused");
  await page.waitForTimeout(1500); // what was on its way arrives
  const paused = await percent();
  await page.waitForTimeout(1000);
  equal(await percent(), paused, "percent while it is paused");
  await look(page, "paused");
  await page.click(".progress button");
  await until("more percent", async () => (await percent()) > paused + 5);
  await look(page, "uploading");
  const facts = await until("rate and time left", async () => {
    const facts = await page.$eval(".progress .facts", (e) => e.textContent).catch(() => "");
    return facts.includes("/s") && facts.includes("left") && facts;
  });
  await until("the middle", async () => (await percent()) >= 45);
  await ask("kill");
  const killed = await percent();
  check(killed < 95, `the pod was killed too late, at ${killed} %`);
  await page.waitForSelector("#job .banner >> text=The connection is lost");
  await until("that the pod is away", async () => (await page.$("body > #page > .banner:not([hidden])")) !== null);
  await look(page, "reconnecting");
  await ask("restart");
  await state(page, "succeeded", 120_000);
  const { sha256, size } = await result(page);
  return { sha256, size, facts };
}

/** Reloads in mid-run. */
export async function reload(context, open) {
  const page = await open();
  await call(page, "wait", { kwargs: { gate: setup.gate } });
  await state(page, "running");
  await until("its progress", async () => (await text(page, "#job .progress .facts")).includes("of 100 seconds"));
  await look(page, "running");
  await page.reload();
  await state(page, "running");
  await until("a sign of life", async () => (await text(page, "#job .progress .facts")).includes("last sign of life"));
  await ask("open");
  await state(page, "succeeded");
  equal(await result(page), "through", "the result");
}

/** Closes the tab in mid-upload, and opens another. */
export async function reopen(context, open) {
  const page = await open();
  await call(page, "sha256", { files: [setup.file] });
  await until("a third", async () => parseInt(await page.$eval(".progress strong", (e) => e.textContent).catch(() => "0"), 10) >= 33);
  page.on("dialog", (dialog) => dialog.accept()); // "leave the page?"
  await page.close();
  const again = await open();
  await again.waitForSelector(".drop >> text=missing at the pod");
  const before = await again.$eval("#job progress", (p) => p.value);
  check(before > 0, "nothing had arrived before the tab was closed");
  await look(again, "needs-file");
  await again.setInputFiles("#again", [setup.iris]);
  await until("that it is another file", async () => (await again.$eval(".drop .error-text", (e) => e.textContent)).includes("choose the same file"));
  await again.setInputFiles("#again", [setup.file]);
  await state(again, "succeeded", 60_000);
  return { ...(await result(again)), before };
}

/** The computer sleeps, and wakes up without its connections. */
export async function asleep(context, open) {
  const page = await open();
  await call(page, "wait", { kwargs: { gate: setup.gate } });
  await state(page, "running");
  execFileSync("pkill", ["-STOP", "-f", setup.profile]);
  await ask("cut");
  await ask("open");
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  execFileSync("pkill", ["-CONT", "-f", setup.profile]);
  await state(page, "succeeded", 15_000); // at once, but for how fast the machine is
  equal(await result(page), "through", "the result");
}

/** Waits for a model that loads slowly, and in the queue behind it. Each call takes a process, which loads when it is let. */
export async function queue(context, open) {
  const page = await open();
  await call(page, "hello"); // by the process that is there, the only one that is
  await state(page, "succeeded");
  await call(page, "hello");
  await state(page, "loading");
  await look(page, "loading");
  await call(page, "hello");
  await state(page, "queued");
  await until("its place", async () => (await text(page, "#job .big")) === "Number 2 in the queue"); // the first waits, too
  await look(page, "queued");
  await page.click(".jobs li:nth-child(2) button");
  await ask("open");
  await state(page, "succeeded");
  await page.click(".jobs li:nth-child(1) button");
  await ask("open");
  await state(page, "succeeded");
}

/** Cancels, and deletes. */
export async function cancel(context, open) {
  const page = await open();
  await call(page, "sleep", { kwargs: { seconds: 60 } });
  await state(page, "running");
  await page.click(".actions button >> text=Cancel");
  await state(page, "canceled");
  await look(page, "canceled");
  await page.click(".actions button >> text=Delete");
  await until("an empty list", async () => (await page.$$(".jobs li")).length === 0);

  // Bad arguments are said before anything is sent, and by the pod.
  await page.selectOption("#function", "train");
  await page.click("button.link");
  await page.fill("#kwargs", "[1]");
  await page.click("button[type=submit]");
  await page.waitForSelector("form .error-text >> text=not a JSON object");
  await page.fill("#kwargs", "{}");
  await page.setInputFiles("#files", [setup.iris]);
  await page.click("button[type=submit]");
  await state(page, "failed");
  check((await text(page, "#job .error")).includes("target"), "the error says what is missing");

  // By keyboard alone.
  await page.focus("#function");
  await page.keyboard.type("hello");
  await page.keyboard.press("Tab"); // version
  await page.keyboard.press("Tab"); // name
  await page.keyboard.type("keys");
  await page.keyboard.press("Enter");
  await state(page, "succeeded");
  equal((await result(page)).hello, "keys", "the result of a call by keyboard");

  // On a telephone.
  await page.setViewportSize({ width: 360, height: 740 });
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  check(inner <= outer, `the page is ${inner} wide on a screen of ${outer}`);
  await look(page, "narrow");

  // Offline is said.
  await context.setOffline(true);
  await page.waitForSelector(".banner >> text=offline");
  await context.setOffline(false);
  await page.waitForSelector("body > #page > .banner", { state: "hidden" });
}

/** The model fails, and has said why. */
export async function failure(context, open) {
  const page = await open();
  await page.selectOption("#function", "fail");
  await page.setInputFiles("#files", [setup.iris]);
  await page.click("button[type=submit]");
  await until("the log, while it runs", async () => (await page.$("#job .chip.running")) && (await text(page, ".log")).includes("looking for the cable"));
  await ask("open");
  await state(page, "failed");
  check((await text(page, "#job .error")).includes("exit status 3"), `the error: ${await text(page, "#job .error")}`);
  await until("the log", async () => (await text(page, ".log")).includes("the cable is unplugged"));
  await look(page, "failed");
}

/** A long call through proxies with short timeouts. */
export async function patient(context, open) {
  const page = await open();
  const failed = [];
  page.on("requestfailed", (r) => failed.push(`${r.url()}: ${r.failure()?.errorText}`));
  await call(page, "sleep", { kwargs: { seconds: 20 } });
  await state(page, "running");
  await state(page, "succeeded", 40_000);
  equal(await result(page), { slept: 20 }, "the result");
  check((await page.$("#job .banner")) === null, "a banner about the connection");
  return { failed };
}

/** What the page's memory does under a large upload. */
export async function heap(context, open) {
  const page = await open();
  const cdp = await context.newCDPSession(page);
  const used = async () => {
    const { usedSize, backingStorageSize = 0 } = await cdp.send("Runtime.getHeapUsage");
    return usedSize + backingStorageSize;
  };
  await cdp.send("HeapProfiler.collectGarbage");
  const before = await used();
  let peak = before;
  await call(page, "sha256", { files: [setup.file] });
  while (!(await page.$("#job .chip.succeeded, #job .chip.failed"))) {
    peak = Math.max(peak, await used());
    await page.waitForTimeout(100);
  }
  const { sha256, size } = await result(page);
  return { sha256, size, growth: peak - before };
}

/** How fast the page is there, and whether anything jumps. */
export async function paint(context) {
  const page = await context.newPage();
  await page.addInitScript(() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
      window.shifts.push(...list.getEntries().map((e) => ({ value: e.value, what: e.sources.map((s) => s.node?.outerHTML?.slice(0, 80)) })));
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(setup.url);
  await page.waitForSelector("#function option", { state: "attached" });
  await page.waitForSelector(".jobs, #jobs .hint");
  await page.waitForTimeout(1000);
  const shifts = await page.evaluate(() => window.shifts);
  const paints = await page.evaluate(() => performance.getEntriesByType("paint").map(({ name, startTime }) => [name, startTime]));
  await accessible(page, "paint");
  return { shifts, ...Object.fromEntries(paints) };
}

/** The example's page, on an origin that the pod allows, and on one that it doesn't. */
export async function elsewhere(context) {
  const at = async (origin) => {
    const page = await context.newPage();
    page.refused = [];
    page.on("console", (m) => m.text().includes("CORS policy") && page.refused.push(m.text()));
    await page.goto(`${origin}/?pod=${setup.pod}`);
    await page.setInputFiles("#file", setup.file);
    return page;
  };
  const allowed = await at(setup.allowed);
  const result = await until("a result", async () => {
    const text = await allowed.textContent("#result");
    return text && JSON.parse(text);
  });
  equal(allowed.refused, [], "what the browser refused to the allowed origin");
  await allowed.reload();
  await until("the result after a reload", async () => (await allowed.textContent("#result")).includes(result.sha256));

  const other = await at(setup.other);
  await until("that the browser refuses", () => other.refused.length > 0);
  await other.waitForTimeout(1000);
  equal(await other.textContent("#result"), "", "the result on the other origin");
  return result;
}

/** An upload and a long call through a proxy that nobody has set up for this: small bodies only, answers held back. */
export async function unfriendly(context, open) {
  const page = await open();
  await call(page, "sha256", { files: [setup.file] });
  await state(page, "succeeded", 60_000);
  const { sha256, size } = await result(page);
  await call(page, "sleep", { kwargs: { seconds: 15 } });
  await state(page, "running");
  await until("its progress, though streams are held back", async () => /of 15 seconds/.test(await text(page, "#job .progress .facts").catch(() => "")), 14_000);
  await state(page, "succeeded", 60_000);
  equal(await result(page), { slept: 15 }, "the result");
  return { sha256, size };
}

/** An upload over a slow link. */
export async function slow(context, open) {
  const page = await open();
  await call(page, "sha256", { files: [setup.file] });
  await state(page, "succeeded", 120_000);
  return result(page);
}
