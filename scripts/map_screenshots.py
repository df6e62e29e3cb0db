#!/usr/bin/env python3
"""Uses a map the way a reader does: moves, zooms, searches, chooses an image; and measures how long a picture takes.

    python3 scripts/map_screenshots.py runs/first/analyses/map/map.html out/

writes pictures of the page on a laptop and on a phone, light and dark, whole and close, with a search, with an image and its
neighbours, into the folder, and fails if the page logs an error, asks for anything but itself, is wider than its window, does
not answer as it should, or needs longer than --frame-ms for the median picture while it moves. Prints one line of JSON for
each screen. Needs what scripts/screenshots.py needs.
"""

import argparse
import base64
import json
import pathlib
import sys

from screenshots import browsing, complaints, end

SCREENS = [("laptop", 1280, 800, 1, "light"), ("phone", 390, 844, 2, "dark")]
# Two pictures later everything that was asked for is drawn.
SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 60))))"
STATE = "diptychMap.state"


class Reader:
    """A page in a browser, and what a reader does with it."""

    def __init__(self, browser, screen, out):
        self.browser, self.out = browser, out
        self.name, self.width, self.height, self.scale, self.scheme = screen
        self.wrong = []

    def value(self, expression):
        return self.browser.value(expression)

    def settle(self):
        self.value(SETTLED)

    def wait(self, condition, patience=100):
        for _ in range(patience):
            if self.value(condition):
                return True
            self.value("new Promise(done => setTimeout(done, 50))")
        return False

    def expect(self, condition, what):
        if not self.value(condition):
            self.wrong.append(what)

    def open(self, url):
        browser = self.browser
        browser.events.clear()
        browser.ask("Emulation.setDeviceMetricsOverride", width=self.width, height=self.height, deviceScaleFactor=self.scale,
                    mobile=self.name == "phone")
        browser.ask("Emulation.setTouchEmulationEnabled", enabled=self.name == "phone")
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": self.scheme}])
        browser.ask("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired")
        if not self.wait("!!window.diptychMap && diptychMap.frames.length > 0"):
            sys.exit("map_screenshots: the page does not draw its map")
        self.settle()

    def picture(self, what):
        answer = self.browser.ask("Page.captureScreenshot", format="png")
        (self.out / f"{self.name}-{self.scheme}-{what}.png").write_bytes(base64.b64decode(answer["data"]))

    def middle(self):
        return self.value("""(() => {
            const { x, y, width, height } = document.getElementById("map").getBoundingClientRect();
            return { x: x + width / 2, y: y + height / 2 };
        })()""")

    def mouse(self, kind, place, **more):
        self.browser.ask("Input.dispatchMouseEvent", type=kind, **place, **more)

    def click(self, place):
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, place, button="left", clickCount=1)

    def touch(self, kind, *places):
        self.browser.ask("Input.dispatchTouchEvent", type=kind, touchPoints=list(places))

    def key(self, key):
        self.browser.ask("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.browser.ask("Input.dispatchKeyEvent", type="keyUp", key=key)


def moves(reader):
    """Drags or pinches, then the keys; complains if the map stays."""
    place = reader.middle()
    before = reader.value(f"[{STATE}.x, {STATE}.y, {STATE}.zoom]")
    if reader.name == "phone":
        apart = lambda by: [{"x": place["x"] - by, "y": place["y"], "id": 0}, {"x": place["x"] + by, "y": place["y"], "id": 1}]
        reader.touch("touchStart", *apart(30))
        for by in range(35, 95, 10):
            reader.touch("touchMove", *apart(by))
        reader.touch("touchEnd")
        reader.settle()
        reader.expect(f"{STATE}.zoom > {before[2]} * 1.5", "two fingers do not zoom")
        zoomed = reader.value(f"{STATE}.x")
        reader.touch("touchStart", {**place, "id": 0})
        for by in range(10, 70, 10):
            reader.touch("touchMove", {"x": place["x"] + by, "y": place["y"], "id": 0})
        reader.touch("touchEnd")
        reader.settle()
        reader.expect(f"{STATE}.x < {zoomed}", "a finger does not move the map")
    else:
        reader.mouse("mousePressed", place, button="left", clickCount=1)
        for by in range(10, 90, 10):
            reader.mouse("mouseMoved", {"x": place["x"] + by, "y": place["y"] + by / 2}, button="left", buttons=1)
        reader.mouse("mouseReleased", {"x": place["x"] + 80, "y": place["y"] + 40}, button="left", clickCount=1)
        reader.settle()
        reader.expect(f"{STATE}.x < {before[0]} && {STATE}.y < {before[1]}", "dragging does not move the map")
        reader.mouse("mouseWheel", place, deltaX=0, deltaY=-240)
        reader.settle()
        reader.expect(f"{STATE}.zoom > {before[2]} * 1.3", "the wheel does not zoom")
    reader.value("document.getElementById('map').focus()")
    for key, condition, what in [
        ("0", f"Math.abs({STATE}.zoom - 1) < 1e-6", "0 does not show the whole map"),
        ("ArrowRight", f"{STATE}.x > 0", "an arrow key does not move the map"),
        ("+", f"{STATE}.zoom > 1.4", "+ does not zoom"),
        ("Home", f"Math.abs({STATE}.zoom - 1) < 1e-6", "Home does not show the whole map"),
    ]:
        reader.key(key)
        if not reader.wait(condition, 20):
            reader.wrong.append(what)


def searches(reader):
    """Types the first class, or a path; complains about the number found."""
    word = reader.value("""(() => {
        const named = diptychMap.colourings.find((colouring) => colouring.searched);
        return named ? named.groups[0] : diptychMap.paths[0];
    })()""")
    reader.value("document.getElementById('query').focus()")
    reader.browser.ask("Input.insertText", text=word)
    reader.wait(f"{STATE}.matches !== null")
    reader.settle()
    words = json.dumps(word.lower().split())
    expected = reader.value(f"""(() => {{
        const named = diptychMap.colourings.filter((colouring) => colouring.searched);
        const has = (point, word) => diptychMap.paths[point].toLowerCase().includes(word)
            || named.some((colouring) => (colouring.groups[colouring.of[point]] ?? "").toLowerCase().includes(word));
        return diptychMap.paths.filter((_, point) => {words}.every((word) => has(point, word))).length;
    }})()""")
    reader.expect(f"{STATE}.matched === {expected} && {expected} > 0", f"a search for `{word}` does not find {expected} images")
    reader.expect("document.querySelectorAll('#results button').length === Math.min(60, " + str(expected) + ")",
                  "the list does not hold what was found")
    reader.expect("document.getElementById('status').textContent.includes('match')", "what was found is not announced")
    reader.picture("search")
    reader.value("document.getElementById('clear').click()")
    reader.settle()
    reader.expect(f"{STATE}.matches === null && document.getElementById('found').hidden", "Clear does not end the search")


def chooses(reader):
    """Clicks an image; complains if it and its neighbours are not shown, in the features' order."""
    point = reader.value("Math.floor(diptychMap.paths.length / 3)")
    reader.value(f"(() => {{ const map = diptychMap.maps[{STATE}.map];"
                 f" diptychMap.fly(map.x[{point}], map.y[{point}], 90); }})()")
    reader.wait(f"Math.abs({STATE}.zoom - 90) < 1e-6")
    reader.settle()
    reader.value("new Promise(done => setTimeout(done, 400))")
    place = reader.middle()
    if reader.name == "phone":
        reader.touch("touchStart", {**place, "id": 0})
        reader.touch("touchEnd")
    else:
        reader.mouse("mouseMoved", place)
        reader.settle()
        reader.expect("!document.getElementById('tip').hidden", "pointing at an image shows nothing")
        reader.picture("hover")
        reader.click(place)
    reader.wait(f"{STATE}.chosen >= 0")
    reader.value("new Promise(done => setTimeout(done, 400))")
    # Another image of the same place may lie above it.
    reader.expect(f"{STATE}.chosen >= 0", "a click chooses nothing")
    reader.expect(f"""(() => {{
        const {{ chosen, neighbours }} = {STATE};
        const k = diptychMap.near ? diptychMap.near.length / diptychMap.paths.length : 0;
        const listed = [...document.querySelectorAll("#results button")].map((button) => Number(button.dataset.point));
        return neighbours.length === k && listed.join() === neighbours.join() && !neighbours.includes(chosen)
            && neighbours.every((other, at) => other === diptychMap.near[chosen * k + at]);
    }})()""", "the neighbours listed are not those of the file")
    reader.picture("chosen")
    reader.value("document.getElementById('map').focus()")
    reader.key("n")
    reader.settle()
    reader.expect("document.getElementById('status').textContent.startsWith('Neighbour:')", "N tells no neighbour")
    reader.key("Escape")
    reader.settle()
    reader.expect(f"{STATE}.chosen < 0 && document.getElementById('chosen').hidden", "Escape does not let go")


def toggles(reader):
    """Takes the first group out and puts it back; complains if the legend does not follow."""
    reader.key("Home")
    reader.wait(f"Math.abs({STATE}.zoom - 1) < 1e-6")
    shown = f"diptychMap.colourings[{STATE}.colouring].shown[0]"
    reader.value("document.querySelector('#legend input').click()")
    reader.expect(f"!{shown}", "the legend does not take a group out")
    reader.value("document.querySelector('#legend input').click()")
    reader.expect(shown, "the legend does not put a group back")


def frames(reader):
    """Median and 95th percentile of what a picture costs while the map moves, whole and close; and what passes between two."""
    return reader.value(f"""(async () => {{
        const next = () => new Promise((done) => requestAnimationFrame(done));
        const middle = (values, share) => values.sort((a, b) => a - b)[Math.floor(share * (values.length - 1))];
        const told = {{}};
        for (const [name, zoom] of [["whole", 1], ["close", 40]]) {{
            Object.assign({STATE}, {{ x: 0, y: 0, zoom }});
            diptychMap.fly(0, 0, zoom);
            for (let at = 0; at < 30; at++) await next();
            diptychMap.frames.length = 0;
            const gaps = [];
            let last = await next();
            for (let at = 0; at < 60; at++) {{
                const event = new KeyboardEvent("keydown", {{ key: at % 2 ? "ArrowLeft" : "ArrowRight" }});
                document.getElementById("map").dispatchEvent(event);
                const now = await next();
                gaps.push(now - last);
                last = now;
            }}
            const costs = diptychMap.frames.slice();
            told[name] = {{
                draw_ms: middle(costs, 0.5), draw_ms_95: middle(costs, 0.95), gap_ms: middle(gaps, 0.5), pictures: costs.length,
            }};
        }}
        diptychMap.fly(0, 0, 1);
        return told;
    }})()""")


def travels(reader):
    """From the first map to the second and back; complains if places do not arrive."""
    if reader.value("diptychMap.maps.length") < 2:
        return
    reader.value("document.querySelectorAll('#maps input')[1].click()")
    reader.value("new Promise(done => setTimeout(done, 400))")
    reader.value("new Promise(done => setTimeout(done, 1500))")
    reader.expect(f"{STATE}.map === 1", "the second map cannot be chosen")
    reader.expect("document.getElementById('numbers').textContent.startsWith(diptychMap.maps[1].name)",
                  "the numbers are not those of the map")
    reader.picture("second")
    reader.value("document.querySelectorAll('#maps input')[0].click()")
    reader.value("new Promise(done => setTimeout(done, 1500))")
    reader.expect(f"{STATE}.map === 0", "there is no way back to the first map")


def use(browser, screen, url, out):
    reader = Reader(browser, screen, out)
    reader.open(url)
    wide = reader.value("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    if wide > reader.width:
        reader.wrong.append(f"the page is {wide} px wide in a window of {reader.width} px")
    reader.picture("whole")
    measured = frames(reader)
    reader.wait(f"Math.abs({STATE}.zoom - 1) < 1e-6")
    for task in (moves, searches, chooses, toggles, travels):
        task(reader)
    reader.wrong += complaints(browser.events, url)
    told = {"screen": reader.name, "images": reader.value("diptychMap.paths.length"), **measured}
    print(json.dumps(told))
    return told, [f"{reader.name}: {complaint}" for complaint in reader.wrong]


def slow(told, most_ms):
    """Whether pictures take longer than they may."""
    slowest = max(told["whole"]["draw_ms"], told["close"]["draw_ms"])
    return [f"a picture takes {slowest:.0f} ms, more than {most_ms:.0f}"] if slowest > most_ms else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map", type=pathlib.Path, help="the page, a map.html")
    parser.add_argument("out", type=pathlib.Path, help="folder for the pictures")
    parser.add_argument("--frame-ms", type=float, default=50, help="longest median of a picture")
    arguments = parser.parse_args()
    if not arguments.map.is_file():
        sys.exit(f"map_screenshots: `{arguments.map}` is no file; make it with `diptych analyze map RUN`")
    arguments.out.mkdir(parents=True, exist_ok=True)
    url = arguments.map.resolve().as_uri()
    found = []
    with browsing("map_screenshots") as (browser, _):
        for screen in SCREENS:
            told, wrong = use(browser, screen, url, arguments.out)
            found += wrong + [f"{screen[0]}: {text}" for text in slow(told, arguments.frame_ms)]
    end("map_screenshots", found)


if __name__ == "__main__":
    main()
