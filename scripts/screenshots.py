#!/usr/bin/env python3
"""Looks at a report the way a reader does: pictures of it, and a check that it keeps its promises.

    python3 scripts/screenshots.py runs/first/report.html out/

writes `laptop-light.png`, `laptop-dark.png`, `phone-light.png` and `phone-dark.png` (whole page) into the folder and fails if the page
logs an error, asks for anything but itself, is wider than its window, or does not keep one of these promises, at both sizes:
charts can be read with the pointer and with the arrow keys; the Tab key reaches everything in its order, and what has the focus is
marked; text has a contrast of 4.5 to 1 (3 to 1 if large) and curves of 3 to 1, by day and by night, in both palettes; every button
for data saves the numbers that the page carries, as CSV and JSON alike; a page of a run that goes on reads itself anew without
losing the reader's place, can be paused, and waits to be asked where less motion is wanted.
Needs Python 3.10 or newer and Debian's Chromium (`apt-get install chromium`), which it drives through the DevTools protocol over a
pipe; `CHROMIUM` names another browser.
"""

import argparse
import base64
import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import re
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
            details = answer["exceptionDetails"]
            sys.exit(f"screenshots: {expression}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    def press(self, key, **more):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                     windowsVirtualKeyCode={"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}[key],
                     **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}), **more)

    def open(self, url):
        self.events = [event for event in self.events if event.get("method") != "Page.loadEventFired"]
        self.ask("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        # On a busy machine the event may still be that of the page before.
        if not self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}", PATIENCE_SECONDS):
            sys.exit(f"screenshots: `{url}` is not opened")

    def until(self, expression, seconds):
        """Whether an expression becomes true in time; a page that is just read anew has no answer yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.value(f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"):
                return True
            time.sleep(0.1)
        return False

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
            # What a button saves is made by the page and asked of nobody.
            if asked != url and not asked.startswith(("data:", "blob:")):
                yield f"request: {asked}"


def hover(browser):
    """Points at the middle of the first chart; complains if no value appears there."""
    box = browser.value("""(() => {
        const plot = document.querySelector(".plot[data-points], .plot[data-over]");
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


FOCUSABLE = "a[href], button, input, summary, [tabindex='0']"


def keyboard(browser):
    """Walks through the page with Tab; complains about what it passes over, and about a focus that is not seen."""
    wanted = browser.value("""(() => {
        window.order = [...document.querySelectorAll(%s)].filter((e) => e.checkVisibility({ visibilityProperty: true }));
        document.activeElement?.blur();
        scrollTo(0, 0);
        return order.map((e) => e.getAttribute("aria-label") ?? e.textContent.trim().slice(0, 40));
    })()""" % json.dumps(FOCUSABLE))
    reached = []
    for _ in range(len(wanted) + 2):
        browser.press("Tab")
        at = browser.value("""(() => {
            const e = document.activeElement;
            const style = getComputedStyle(e);
            const { width, height } = e.getBoundingClientRect();
            return [order.indexOf(e), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1, width > 0 && height > 0];
        })()""")
        if at[0] < 0:
            break
        if not at[1] or not at[2]:
            yield f"the focus on `{wanted[at[0]]}` is not seen"
        reached.append(at[0])
    if reached != sorted(reached):
        yield "Tab does not follow the order of the page"
    for place in sorted(set(range(len(wanted))) - set(reached)):
        yield f"Tab does not reach `{wanted[place]}`"
    # A chart by its arrow keys, a table by Enter.
    chart = browser.value("""(() => {
        const plot = document.querySelector(".plot");
        plot?.focus();
        return plot ? plot.closest("figure").textContent : null;
    })()""")
    if chart is not None:
        browser.press("ArrowLeft")
        if browser.value('document.querySelector(".plot").closest("figure").textContent') == chart:
            yield "the arrow keys read nothing off a chart"
    if browser.value('(() => { const s = document.querySelector("details > summary"); s?.focus(); return Boolean(s) })()'):
        browser.press("Enter")
        if not browser.value('document.querySelector("details").open'):
            yield "Enter does not open a table"
        browser.press("Enter")
    browser.value("document.activeElement.blur()")


CONTRAST = """(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const known = new Map();
    const rgba = (color) => {
        if (!known.has(color)) {
            pen.clearRect(0, 0, 1, 1);
            pen.fillStyle = color;
            pen.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
            known.set(color, [r, g, b, a / 255]);
        }
        return known.get(color);
    };
    const over = (top, below) => top.slice(0, 3).map((value, at) => value * top[3] + below[at] * (1 - top[3])).concat(1);
    const ground = (element) => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) {
            const layer = rgba(getComputedStyle(e).backgroundColor);
            layers.push(layer);
            if (layer[3] === 1) break;
        }
        return layers.reverse().reduce((below, top) => over(top, below), rgba("Canvas"));
    };
    const light = ([r, g, b]) => [r, g, b].reduce((sum, value, at) => {
        const part = value / 255;
        return sum + [0.2126, 0.7152, 0.0722][at] * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    }, 0);
    const contrast = (a, b) => {
        const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim();
        const element = walker.currentNode.parentElement;
        if (!text || ["SCRIPT", "STYLE", "title", "desc"].includes(element.tagName)) continue;
        if (!element.checkVisibility({ visibilityProperty: true })) continue;
        const style = getComputedStyle(element);
        const drawn = element instanceof SVGElement;
        const size = parseFloat(style.fontSize) * (drawn ? element.getCTM()?.a ?? 1 : 1);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const below = ground(element);
        const value = contrast(over(rgba(drawn ? style.fill : style.color), below), below);
        if (value < (large ? 3 : 4.5)) found.add(`text \`${text.slice(0, 30)}\` has a contrast of ${value.toFixed(2)}`);
        if (size < (drawn ? 7 : 11)) found.add(`text \`${text.slice(0, 30)}\` is ${size.toFixed(1)} px small`);
    }
    const published = document.documentElement.dataset.palette === "published";
    for (const line of document.querySelectorAll(".line")) {
        if (!line.checkVisibility() || published) continue;
        const below = ground(line.closest(".card") ?? line.closest("th, td, li"));
        const value = contrast(rgba(getComputedStyle(line).stroke), below);
        if (value < 3) found.add(`the line \`${line.getAttribute("class")}\` has a contrast of ${value.toFixed(2)}`);
    }
    return [...found];
})()"""


def contrast(browser):
    """Complains about text and curves that the ground swallows, in both palettes."""
    yield from browser.value(CONTRAST)
    before = browser.value('getComputedStyle(document.documentElement).getPropertyValue("--c0")')
    browser.value('document.getElementById("palette").click()')
    if browser.value('getComputedStyle(document.documentElement).getPropertyValue("--c0")') == before:
        yield "the button for the published colours changes nothing"
    yield from (f"published colours: {complaint}" for complaint in browser.value(CONTRAST))
    browser.value('document.getElementById("palette").click()')


def saved(browser, folder, button):
    """The file that a press of a button saves, and its text."""
    for file in folder.iterdir():
        file.unlink()
    at = browser.value(f"""(() => {{
        const button = {button};
        for (let e = button.parentElement; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
        button.scrollIntoView({{ block: "center", behavior: "instant" }});
        const {{ x, y, width, height }} = button.getBoundingClientRect();
        return {{ x: x + width / 2, y: y + height / 2 }};
    }})()""")
    # Chromium saves ten files of a page at a time and leaves out the eleventh, whoever presses.
    for _ in range(2):
        for kind in ("mousePressed", "mouseReleased"):
            browser.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            files = [file for file in folder.iterdir() if file.suffix in (".csv", ".json")]
            if files:
                time.sleep(0.02)
                return files[0].name, files[0].read_text(encoding="utf-8")
            time.sleep(0.02)
    return None, ""


def numbers(place, tables):
    """Columns and rows that the data of a place should have, out of what the page carries; none if it is a shown table."""
    wanted = place["columns"].split(" ") if place["columns"] else None

    def chosen(table):
        columns, rows = table["columns"], table["rows"]
        if wanted is None:
            return columns, rows
        names = ["step", "epoch", *wanted]
        rows = [[row[columns.index(name)] if name in columns else None for name in names] for row in rows]
        return names, [row for row in rows if any(value is not None for value in row[2:])]

    if place["table"]:
        return chosen(json.loads(place["table"]))
    if place["from"]:
        return chosen(json.loads(tables["ids"][place["from"]]))
    if place["runs"]:
        parts = [(run["name"], *chosen(json.loads(run[place["runs"]]))) for run in tables["runs"]]
        return ["run", *parts[0][1]], [[name, *row] for name, _, rows in parts for row in rows]
    return None


def downloads(browser, folder):
    """Presses every button for data and holds what is saved to what the page carries."""
    places = browser.value("""[...document.querySelectorAll(".under")].map((place) => ({
        file: place.dataset.file, table: place.dataset.table ?? "", from: place.dataset.from ?? "",
        runs: place.dataset.runs ?? "", columns: place.dataset.columns ?? "",
    }))""")
    tables = browser.value("""({
        ids: Object.fromEntries([...document.querySelectorAll("section[data-table]")].map((part) => [part.id, part.dataset.table])),
        runs: [...document.querySelectorAll("#all-runs > div")].map((run) => ({
            name: run.dataset.runName, table: run.dataset.table, judged: run.dataset.judged })),
    })""")
    if not places:
        yield "nothing on the page can be saved"
    for at, place in enumerate(places):
        found = {}
        for form in ("csv", "json"):
            button = f'[...document.querySelectorAll(".under")][{at}].querySelectorAll(".save button")'
            name, text = saved(browser, folder, f'[...{button}].find((b) => b.textContent === "{form.upper()}")')
            if name is None or not name.endswith(f".{form}"):
                yield f"the {form} of `{place['file']}` is not saved"
                continue
            found[form] = text
        if len(found) < 2:
            continue
        header, *rows = csv.reader(io.StringIO(found["csv"]))
        records = json.loads(found["json"])
        if len(records) != len(rows) or any(len(row) != len(header) for row in rows):
            yield f"`{place['file']}` has {len(rows)} rows as CSV and {len(records)} as JSON"
        expected = numbers(place, tables)
        if expected is None:
            if not rows or not any(cell for row in rows for cell in row):
                yield f"`{place['file']}` is empty"
            continue
        columns, values = expected
        shown = [[("" if value is None else f"{value}") for value in row] for row in values]
        same = header == columns and len(rows) == len(shown) and all(
            a == b or (a and b and float(a) == float(b)) for got, want in zip(rows, shown) for a, b in zip(got, want))
        if not same or records != [dict(zip(columns, row)) for row in values]:
            yield f"what is saved of `{place['file']}` is not what the page carries"


LIVE = ('<p class="live" data-every="1" data-stamp="{stamp}" hidden><button id="refresh" type="button" aria-pressed="true">'
        'Refreshing</button> <span role="status"></span></p>')


def refresh(browser, report, folder):
    """Follows a page that changes: a copy of this one, as if its run went on."""
    text = report.read_text(encoding="utf-8")
    text = re.sub(r'<p class="live".*?</p>', "", text)
    path = folder / "follows.html"

    def write(stamp, live=True):
        page = text.replace("<h1>", (LIVE.format(stamp=stamp) if live else "") + f'<h1 data-version="{stamp}">', 1)
        # More above the reader, so that the place moves.
        page = page.replace('<main id="main">', '<main id="main">' + "<p>more</p>" * (5 * stamp), 1)
        other = folder / "other.html"
        other.write_text(page, encoding="utf-8")
        other.replace(path)

    version = 'Number(document.querySelector("h1").dataset.version)'
    place = 'document.querySelector("#curves .chart, #curves").getBoundingClientRect().top'
    motion = lambda wanted: browser.ask("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-reduced-motion", "value": "reduce" if wanted else "no-preference"}])
    motion(False)
    write(0)
    browser.open(path.as_uri())
    if not browser.value('!document.querySelector(".live").hidden'):
        yield "a page of a run that goes on does not say that it follows it"
    browser.value("""(() => {
        const details = [...document.querySelectorAll("details")].at(-1);
        if (details) details.open = true;
        document.getElementById("theme").click();
        const part = document.querySelector("#curves .chart, #curves");
        scrollTo({ top: part.getBoundingClientRect().top + scrollY - 40, behavior: "instant" });
        (document.querySelector("#curves .plot") ?? document.querySelector("#theme")).focus({ preventScroll: true });
    })()""")
    theme, top = browser.value("document.documentElement.dataset.theme"), browser.value(place)
    write(1)
    if not browser.until(f"{version} === 1 && document.readyState === 'complete'", 10):
        yield "the page does not read itself anew"
        return
    time.sleep(0.3)
    if abs(browser.value(place) - top) > 3:
        yield f"the reader's place moves by {browser.value(place) - top:.0f} px when the page is read anew"
    if browser.value("document.documentElement.dataset.theme") != theme:
        yield "light or dark is forgotten when the page is read anew"
    if browser.value('(() => { const d = [...document.querySelectorAll("details")].at(-1); return d && !d.open })()'):
        yield "an open table is closed when the page is read anew"
    if browser.value('(() => { const p = document.querySelector("#curves .plot"); return p && document.activeElement !== p })()'):
        yield "the focus is lost when the page is read anew"
    browser.value('document.getElementById("refresh").click()')
    if browser.value('document.getElementById("refresh").getAttribute("aria-pressed")') != "false":
        yield "the button for refreshing does not say that it is paused"
    write(2)
    if browser.until(f"{version} === 2", 3):
        yield "a paused page is read anew"
    browser.value("location.reload()")
    browser.until(f"{version} === 2", 5)
    write(3)
    if browser.until(f"{version} === 3", 3):
        yield "a paused page forgets that it is paused"
    browser.value('document.getElementById("refresh").click()')
    write(4)
    if not browser.until(f"{version} === 4", 10):
        yield "a page that was paused does not go on"
    write(5, live=False)
    if not browser.until(f"{version} === 5", 10) or browser.value('document.querySelector(".live") !== null'):
        yield "a page does not show that its run has ended"
    write(6, live=False)
    if browser.until(f"{version} === 6", 3):
        yield "a page of a run that has ended is read anew"
    motion(True)
    browser.open("about:blank")
    browser.open(path.as_uri())
    write(7)
    browser.open(path.as_uri())
    write(8)
    if browser.until(f"{version} === 8", 3):
        yield "where less motion is wanted, the page is read anew without being asked"
    browser.value('document.getElementById("refresh").click()')
    write(9)
    if not browser.until(f"{version} === 9", 10):
        yield "where less motion is wanted, the page cannot be asked to follow"
    motion(False)


def look(browser, report, screen, scheme, out, folder):
    name, width, height, scale = screen
    url = report.resolve().as_uri()
    browser.events.clear()
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                mobile=name == "phone")
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    # Not from this page to itself, which would remember how it was left.
    browser.open("about:blank")
    browser.open(url)
    browser.value("document.fonts.ready.then(() => 0)")
    wide = browser.value("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    page = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": width, "height": min(page["height"], 16000 / scale), "scale": 1}
    picture = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    (out / f"{name}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))
    if wide > width:
        # Whoever presses on such a page presses beside what is meant.
        return [f"{name}, {scheme}: the page is {wide} px wide in a window of {width} px"]
    found = []
    # Reports alone have curves whose colours can be chosen, data to save, and a run to follow.
    is_report = browser.value('document.getElementById("palette") !== null')
    found += [*hover(browser), *toggle(browser), *(contrast(browser) if is_report else [])]
    if is_report and scheme == "light":
        found += [*keyboard(browser), *downloads(browser, folder)]
    found += complaints(browser.events, url)
    if is_report and scheme == "light":
        with tempfile.TemporaryDirectory() as copies:
            found += refresh(browser, report, pathlib.Path(copies))
    return [f"{name}, {scheme}: {complaint}" for complaint in found]


@contextlib.contextmanager
def browsing(script):
    """A browser on a page of its own, and the folder that it downloads into; `script` is who says what is missing."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not program:
        sys.exit(f"{script}: no chromium found; install it with `apt-get install chromium` or name one in CHROMIUM")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryDirectory() as folder:
        browser = Browser(program, profile)
        try:
            target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                browser.ask(f"{domain}.enable")
            session, browser.session = browser.session, None
            browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=folder)
            browser.session = session
            yield browser, pathlib.Path(folder)
        finally:
            browser.close()


def end(script, found):
    """Tells every complaint, and ends with success where there is none."""
    for complaint in found:
        print(f"{script}: {complaint}", file=sys.stderr)
    sys.exit(1 if found else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=pathlib.Path, help="the page: a report.html, or that of an analysis")
    parser.add_argument("out", type=pathlib.Path, help="folder for the pictures")
    arguments = parser.parse_args()
    if not arguments.report.is_file():
        sys.exit(f"screenshots: `{arguments.report}` is no file; make it with `diptych report RUN`")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with browsing("screenshots") as (browser, folder):
        found = [complaint for screen in SCREENS for scheme in SCHEMES
                 for complaint in look(browser, arguments.report, screen, scheme, arguments.out, folder)]
    end("screenshots", found)


if __name__ == "__main__":
    main()
