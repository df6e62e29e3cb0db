#!/usr/bin/env python3
"""Looks at a report the way a reader does: pictures of it, and a check that it keeps its promises.

    python3 scripts/screenshots.py runs/first/report.html out/

writes `laptop-light.png`, `laptop-dark.png`, `phone-light.png` and `phone-dark.png` (whole page) into the folder and fails if the page
logs an error, asks for anything but itself, is wider than its window, or if its charts cannot be read with the pointer.
Needs Python 3.10 or newer and Debian's Chromium (`apt-get install chromium`), which it drives through the DevTools protocol over a
pipe; `CHROMIUM` names another browser.
"""

import argparse
import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SCREENS = [("laptop", 1280, 800, 1), ("phone", 390, 844, 2)]
SCHEMES = ["light", "dark"]
PATIENCE_SECONDS = 60


class Browser:
    """A headless Chromium that speaks JSON with a NUL after each message: it reads descriptor 3 and writes descriptor 4."""

    def __init__(self, program, profile):
        to_read, self.to = os.pipe()
        self.answers, to_write = os.pipe()
        # Copies above 9, so that putting one in its place does not close the other.
        to_read, to_write = (fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (to_read, to_write))

        def place():
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            preexec_fn=place, pass_fds=(3, 4), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest = b""
        self.count = 0
        self.events = []
        self.session = None

    def read(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.answers, 1 << 20) if ready else b""
            if not data:
                sys.exit("screenshots: the browser stopped answering")
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data):]
        while True:
            answer = self.read()
            if answer.get("id") == self.count:
                if "error" in answer:
                    sys.exit(f"screenshots: {method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.read())

    def value(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"screenshots: {expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def close(self):
        os.close(self.to)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def complaints(events, url):
    """What the page did that it must not: errors, and requests for anything but itself and data URIs."""
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            yield f"exception: {details.get('exception', {}).get('description', details['text'])}"
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            yield "console: " + " ".join(str(part.get("value", part.get("description"))) for part in params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            yield f"log: {params['entry']['text']}"
        elif method == "Network.requestWillBeSent":
            asked = params["request"]["url"]
            if asked != url and not asked.startswith("data:"):
                yield f"request: {asked}"


def hover(browser):
    """Points at the middle of the first chart; complains if no value appears there."""
    box = browser.value("""(() => {
        const plot = document.querySelector(".plot[data-points]");
        if (!plot) return null;
        plot.scrollIntoView({ block: "center" });
        const { x, y, width, height } = plot.getBoundingClientRect();
        return { x: x + width / 2, y: y + height / 2 };
    })()""")
    if box is None:
        return
    output = 'document.querySelector(".chart output").textContent'
    before = browser.value(output)
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", **box)
    after = browser.value(output)
    if after == before or not after.startswith(("step ", "epoch ")):
        yield f"pointing at a chart shows `{after}` instead of a step or an epoch"
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    if browser.value(output) != before:
        yield "a chart goes on showing a value after the pointer left"


def toggle(browser):
    """Presses the button for light and dark twice; complains if the page's colour stays or does not come back."""
    color = "getComputedStyle(document.body).backgroundColor"
    press = 'document.getElementById("theme").click()'
    first = browser.value(color)
    browser.value(press)
    second = browser.value(color)
    browser.value(press)
    if first == second or browser.value(color) != first:
        yield "the button does not switch between light and dark"


def look(browser, url, screen, scheme, out):
    name, width, height, scale = screen
    browser.events.clear()
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                mobile=name == "phone")
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.ask("Page.navigate", url=url)
    browser.wait_for("Page.loadEventFired")
    browser.value("document.fonts.ready.then(() => 0)")
    found = []
    wide = browser.value("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    if wide > width:
        found.append(f"the page is {wide} px wide in a window of {width} px")
    page = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": width, "height": min(page["height"], 16000 / scale), "scale": 1}
    picture = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    (out / f"{name}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))
    found += [*hover(browser), *toggle(browser), *complaints(browser.events, url)]
    return [f"{name}, {scheme}: {complaint}" for complaint in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=pathlib.Path, help="the page, a report.html")
    parser.add_argument("out", type=pathlib.Path, help="folder for the pictures")
    arguments = parser.parse_args()
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not program:
        sys.exit("screenshots: no chromium found; install it with `apt-get install chromium` or name one in CHROMIUM")
    if not arguments.report.is_file():
        sys.exit(f"screenshots: `{arguments.report}` is no file; make it with `diptych report RUN`")
    arguments.out.mkdir(parents=True, exist_ok=True)
    url = arguments.report.resolve().as_uri()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                browser.ask(f"{domain}.enable")
            found = [complaint for screen in SCREENS for scheme in SCHEMES
                     for complaint in look(browser, url, screen, scheme, arguments.out)]
        finally:
            browser.close()
    for complaint in found:
        print(f"screenshots: {complaint}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
