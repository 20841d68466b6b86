// A headless browser, spoken to in the DevTools protocol over a pipe.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Long, for the sake of machines that do much else. */
const PATIENCE_MS = 60_000;

export class Browser {
  #process;
  #folder = mkdtempSync(join(tmpdir(), "im-gateway-page-"));
  #nextId = 1;
  #asked = new Map();
  #windows = new Map();

  constructor(program) {
    const options = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--remote-debugging-pipe",
      `--user-data-dir=${this.#folder}`,
    ];
    const stdio = ["ignore", "ignore", "ignore", "pipe", "pipe"];
    this.#process = spawn(program, options, { stdio });
    let text = "";
    this.#process.stdio[4].setEncoding("utf8").on("data", (piece) => {
      const messages = (text + piece).split("\0");
      text = messages.pop();
      messages.forEach((message) => this.#receive(JSON.parse(message)));
    });
  }

  #receive({ id, result, error, method, params, sessionId }) {
    if (id === undefined) {
      this.#windows.get(sessionId)?.happened(method, params);
      return;
    }
    const { resolve, reject } = this.#asked.get(id);
    this.#asked.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  }

  ask(method, params = {}, sessionId) {
    const id = this.#nextId++;
    this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#asked.set(id, { resolve, reject }));
  }

  /** Opens a window on `url`. */
  async open(name, url) {
    const { targetId } = await this.ask("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.ask("Target.attachToTarget", { targetId, flatten: true });
    const window = new Window(name, (method, params) => this.ask(method, params, sessionId));
    this.#windows.set(sessionId, window);
    for (const domain of ["Page", "Runtime", "Log", "Network"]) {
      await window.ask(`${domain}.enable`);
    }
    await window.ask("Emulation.setFocusEmulationEnabled", { enabled: true });
    await window.ask("Page.navigate", { url });
    return window;
  }

  async close() {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGKILL");
    await ended;
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10 });
  }
}

class Window {
  /** What went wrong in it, and where it asked for something. */
  errors = [];
  hosts = new Set();

  constructor(name, ask) {
    this.name = name;
    this.ask = ask;
  }

  happened(method, params) {
    if (method === "Runtime.exceptionThrown") {
      const { exception, text } = params.exceptionDetails;
      this.errors.push(exception?.description ?? text);
    } else if (method === "Log.entryAdded" && params.entry.source === "security") {
      this.errors.push(params.entry.text);
    } else if (method === "Network.requestWillBeSent") {
      this.hosts.add(new URL(params.request.url).host);
    }
  }

  /** The value of an expression. */
  async value(expression) {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.ask("Runtime.evaluate", options);
    const thrown = exceptionDetails?.exception?.description;
    if (thrown) throw new Error(`${expression}: ${thrown}`);
    return result.value;
  }

  /** Waits until an expression is true. */
  async until(expression) {
    const started = Date.now();
    for (;;) {
      // While a page is loaded there is nothing to be asked.
      if (await this.value(expression).catch(() => false)) return;
      if (Date.now() - started > PATIENCE_MS) {
        const seen = await this.value("document.body.innerText");
        throw new Error(`${this.name}: never ${expression}\n${seen}\n${this.errors.join("\n")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /** Types into a field, as on a keyboard. */
  async type(selector, text) {
    await this.value(`document.querySelector(${JSON.stringify(selector)}).focus()`);
    await this.ask("Input.insertText", { text });
  }

  async click(selector) {
    await this.until(`!!document.querySelector(${JSON.stringify(selector)})?.checkVisibility()`);
    await this.value(`document.querySelector(${JSON.stringify(selector)}).click()`);
  }

  async press(key, modifiers = 0) {
    const text = key === "Enter" ? "\r" : undefined;
    const codes = { Enter: 13, Tab: 9, Escape: 27 };
    const event = { key, code: key, windowsVirtualKeyCode: codes[key], modifiers };
    const type = text ? "keyDown" : "rawKeyDown";
    await this.ask("Input.dispatchKeyEvent", { type, text, ...event });
    await this.ask("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  async size(width, height) {
    const options = { width, height, deviceScaleFactor: 1, mobile: width < 500 };
    await this.ask("Emulation.setDeviceMetricsOverride", options);
  }

  async dark(isDark) {
    const features = [{ name: "prefers-color-scheme", value: isDark ? "dark" : "light" }];
    await this.ask("Emulation.setEmulatedMedia", { features });
  }

  async screenshot(path) {
    const { data } = await this.ask("Page.captureScreenshot", { format: "png" });
    writeFileSync(path, Buffer.from(data, "base64"));
  }

  /** The roles of what can be operated and has no name that a screen reader could say. */
  async nameless() {
    const { nodes } = await this.ask("Accessibility.getFullAXTree");
    const operable = nodes.filter(
      ({ ignored, role }) => !ignored && ["button", "textbox", "link"].includes(role?.value),
    );
    assert.ok(operable.length > 0);
    return operable.filter(({ name }) => !name?.value).map(({ role }) => role.value);
  }
}
