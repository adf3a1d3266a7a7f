// Runs one scenario of the page's tests: the first line of standard input is JSON
// with "scenario" and what that needs. The last line of standard output is JSON:
// {"done": what the scenario has returned}.

import { open, setup, withBrowser } from "./browser.mjs";
import * as scenarios from "./scenarios.mjs";

const scenario = scenarios[setup.scenario];
const done = await withBrowser(async (context) => {
  const pages = [];
  const returned = await scenario(context, async (url) => {
    const page = await open(context, url);
    pages.push(page);
    return page;
  });
  for (const page of pages) {
    if (page.problems.length > 0) {
      throw new Error(`the page: ${page.problems.join("\n")}`);
    }
  }
  return returned;
});
console.log(JSON.stringify({ done: done ?? null }));
process.exit(0);
