// A page in headless chromium, and what it must not do: talk to others, or complain.
import axe from "axe-core";
import puppeteer from "puppeteer-core";
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const SHOTS = process.env.TIDEMARK_SCREENSHOTS;

export function launch() {
  mkdirSync(SHOTS, { recursive: true });
  // The sandbox needs what containers and root do not have; the pages are our own.
  const args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"];
  return puppeteer.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args });
}

export class Page {
  static async open(browser, site, { query = "", key = site.key, scheme = "light", width = 1440, height = 900, scale = 1 } = {}) {
    const context = await browser.createBrowserContext();
    const page = Object.assign(new Page(), { context, site, said: [], others: [], live: [], bytes: 0 });
    page.tab = await context.newPage();
    page.tab.setDefaultTimeout(20_000);
    await page.tab.setViewport({ width, height, deviceScaleFactor: scale });
    await page.light(scheme);
    page.tab.on("console", (message) => ["error", "warn", "assert"].includes(message.type()) && page.said.push(message.text()));
    page.tab.on("pageerror", (error) => page.said.push(error.stack ?? String(error)));
    page.tab.on("request", (request) => {
      // A browser's own icons are data.
      if (!request.url().startsWith(site.door.url) && !request.url().startsWith("data:")) page.others.push(request.url());
      if (request.url().includes("/v1/live")) page.live.push(request.headers());
    });
    if (key) await page.tab.evaluateOnNewDocument((key) => sessionStorage.setItem("key", key), key);
    page.response = await page.tab.goto(`${site.door.url}/${query}`);
    return page;
  }

  light(scheme, motion = "no-preference") {
    return this.tab.emulateMediaFeatures([
      { name: "prefers-color-scheme", value: scheme },
      { name: "prefers-reduced-motion", value: motion },
    ]);
  }

  /** There is an answer to what is asked. */
  answered() {
    return this.tab.waitForFunction(
      () => document.querySelector("#main").dataset.asking === undefined && document.querySelector("#topic").textContent !== "…",
    );
  }

  text(selector) {
    return this.tab.$eval(selector, (element) => element.innerText);
  }

  /** Waits until the text of an element matches. */
  async says(selector, pattern) {
    const is = (selector, source) => new RegExp(source).test(document.querySelector(selector)?.innerText ?? "");
    try {
      await this.tab.waitForFunction(is, {}, selector, pattern.source ?? pattern);
    } catch {
      throw new Error(`${selector} does not say ${pattern}, but: ${await this.text(selector)}`);
    }
  }

  /** Where an element stands may change while a mouse is on its way to it; this does not miss. */
  click(selector) {
    return this.tab.$eval(selector, (element) => element.click());
  }

  address() {
    return new URL(this.tab.url()).searchParams;
  }

  /** A table's rows as text. */
  rows(selector) {
    return this.tab.$$eval(`${selector} tbody tr`, (rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText.trim())));
  }

  async shot(name) {
    await this.tab.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
  }

  /** Where files go that this page saves. */
  async downloads() {
    const place = mkdtempSync(join(tmpdir(), "tidemark-downloads-"));
    const session = await this.tab.createCDPSession();
    await session.send("Browser.setDownloadBehavior", { behavior: "allow", browserContextId: this.context.id, downloadPath: place });
    return { has: (name) => existsSync(join(place, name)), text: (name) => readFileSync(join(place, name), "utf8") };
  }

  /** What axe-core finds against WCAG 2.2, A and AA, and its own best practices. */
  async violations() {
    await this.tab.evaluate(axe.source);
    const found = await this.tab.evaluate(async () => {
      const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
      return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} (${node.failureSummary})`).join("; ")}`);
    });
    return found;
  }

  async close() {
    await this.context.close();
  }
}
