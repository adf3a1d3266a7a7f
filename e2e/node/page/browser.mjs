// A Chromium that is driven through playwright-core, and what all scenarios share.

import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";

const args = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** What the test has to say: the first line of standard input. */
export const setup = JSON.parse((await lines.next()).value);

/** Has the test do something, such as kill the pod, and waits for its answer. */
export async function ask(what) {
  console.log(JSON.stringify({ ask: what }));
  return (await lines.next()).value;
}

/** Runs a scenario in a browser, whose profile is an empty directory. */
export async function withBrowser(scenario) {
  const context = await chromium.launchPersistentContext(setup.profile, {
    executablePath: "/usr/bin/chromium", args, locale: "en-US", viewport: { width: 1280, height: 900 },
  });
  context.setDefaultTimeout(30_000);
  try {
    return await scenario(context);
  } finally {
    await context.close();
  }
}

/** Opens the page. Whatever it says on the console, besides failed requests, is an error, as is a request to another host. */
export async function open(context, url = setup.url) {
  const page = await context.newPage();
  page.problems = [];
  page.on("console", (m) => {
    if (["error", "warning"].includes(m.type()) && !m.text().startsWith("Failed to load resource")) {
      page.problems.push(m.text());
    }
  });
  page.on("pageerror", (err) => page.problems.push(String(err)));
  page.on("request", (r) => {
    if (!r.url().startsWith("blob:") && new URL(r.url()).origin !== new URL(url).origin) {
      page.problems.push(`a request to ${r.url()}`);
    }
  });
  await page.goto(url);
  await page.waitForSelector("#function option", { state: "attached" });
  return page;
}

/** Fills in the form and sends it. files are paths. */
export async function call(page, func, { kwargs = {}, version = "", files = [] } = {}) {
  await page.selectOption("#function", func);
  await page.fill("#version", version);
  for (const [name, value] of Object.entries(kwargs)) {
    await page.fill(`#kwarg-${name}`, String(value));
  }
  if (files.length > 0) {
    await page.setInputFiles("#files", files);
  }
  await page.click("button[type=submit]");
}

/** Drops files, given as paths, as a hand does. */
export async function drop(page, selector, paths) {
  const files = paths.map((path) => ({ name: path.split("/").at(-1), data: readFileSync(path).toString("base64") }));
  const transfer = await page.evaluateHandle((files) => {
    const transfer = new DataTransfer();
    for (const { name, data } of files) {
      transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name));
    }
    return transfer;
  }, files);
  await page.dispatchEvent(selector, "dragover", { dataTransfer: transfer });
  await page.dispatchEvent(selector, "drop", { dataTransfer: transfer });
}

/** Waits until the chosen job is in a state. */
export async function state(page, name, timeout = 30_000) {
  await page.waitForSelector(`#job .chip.${name}`, { timeout });
}

/** The result's JSON, from the unfolded tree's source. */
export async function result(page) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(".result a.button")]);
  return JSON.parse(readFileSync(await download.path(), "utf8"));
}

const axe = readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

/** Has axe look for what keeps people out. */
export async function accessible(page, where) {
  if (!(await page.evaluate(() => "axe" in window))) {
    await page.evaluate(axe); // not as a script of the page, which its policy forbids
  }
  const { violations } = await page.evaluate(() => window.axe.run());
  for (const v of violations) {
    throw new Error(`${where}: axe: ${v.impact} ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html + " " + n.failureSummary).join("\n")}`);
  }
}

/** Looks at the page in light and in dark: pictures of both, and axe's opinion. */
export async function look(page, name) {
  await mkdir(setup.artifacts, { recursive: true });
  for (const theme of ["light", "dark"]) {
    await page.evaluate((theme) => { document.documentElement.dataset.theme = theme; }, theme);
    await page.waitForTimeout(250); // colours fade
    await page.screenshot({ path: join(setup.artifacts, `${name}-${theme}.png`) });
    await accessible(page, `${name}, ${theme}`);
  }
  await page.evaluate(() => { delete document.documentElement.dataset.theme; });
}

export function check(ok, what) {
  if (!ok) {
    throw new Error(what);
  }
}

export function equal(got, want, what) {
  check(JSON.stringify(got) === JSON.stringify(want), `${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

/** Calls what until it returns something true. */
export async function until(what, doing, ms = 30_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await doing();
    if (value) {
      return value;
    }
    check(Date.now() < end, `not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
