"""A headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import re
import subprocess

import aiohttp

PROGRAM = "chromium"
# As root it refuses its own sandbox; /dev/shm is small in containers. Pages of the name far.test are what they are from
# another machine: without TLS, no secure context.
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
             "--disable-background-networking", "--host-resolver-rules=MAP far.test 127.0.0.1", "--disable-extensions", "--no-first-run", "--remote-debugging-port=0"]
WAIT_SECONDS = 30


class Browser:
    """One tab. Methods block; `log` collects what the console and the network say against the page."""

    def __init__(self, profile):
        self.loop = asyncio.new_event_loop()
        self.process = subprocess.Popen([PROGRAM, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
                                        stderr=subprocess.PIPE, text=True)
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            found = re.search(r"listening on ws://([^/]+)/", line)
            if found:
                break
        else:
            raise RuntimeError(f"{PROGRAM} ended with {self.process.wait()}:\n{''.join(lines)}")
        self.log, self.answers, self.last_id = [], {}, 0
        self.loop.run_until_complete(self._open(found[1]))
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    async def _open(self, address):
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://{address}/json/list") as answer:
            tab = next(target for target in await answer.json() if target["type"] == "page")
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def close(self):
        self.loop.run_until_complete(self.session.close())
        self.process.terminate()
        self.process.wait(timeout=20)
        self.process.stderr.close()
        self.loop.close()

    async def _call(self, method, parameters):
        self.last_id += 1
        await self.socket.send_json({"id": self.last_id, "method": method, "params": parameters})
        while True:
            message = json.loads((await self.socket.receive(timeout=WAIT_SECONDS)).data)
            if message.get("id") == self.last_id:
                break
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def _note(self, message):
        if message["method"] == "Runtime.exceptionThrown":
            self.log.append(str(message["params"]["exceptionDetails"]))
        elif message["method"] == "Runtime.consoleAPICalled" and message["params"]["type"] in {"error", "warning"}:
            self.log.append(str(message["params"]["args"]))
        elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] in {"error", "warning"}:
            self.log.append(message["params"]["entry"]["text"] + " " + message["params"]["entry"].get("url", ""))

    def call(self, method, **parameters):
        return self.loop.run_until_complete(self._call(method, parameters))

    def js(self, expression):
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression):
        """Polls until the expression is true."""
        found = self.js(f"""new Promise((resolve) => {{
            const end = performance.now() + {1000 * (WAIT_SECONDS - 5)};
            (function look() {{
                const value = (() => {expression})();
                if (value || performance.now() > end) resolve(Boolean(value)); else setTimeout(look, 30);
            }})();
        }})""")
        assert found, f"never true: {expression}\n{self.js('document.body.innerText')}\n{self.log}"

    def size(self, width, height=900, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url):
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("document.body?.dataset.ready === 'yes'")

    def choose_files(self, selector, paths):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def set(self, selector, value):
        self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
                "e.dispatchEvent(new Event('input', {bubbles: true})); })()")

    def click(self, selector):
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def click_as_people_do(self, expression):
        """On the middle of the element that is the expression's value: to the page, by a person."""
        x, y = self.js(f"(() => {{ const e = {expression}; e.scrollIntoView({{block: 'center'}}); const box = e.getBoundingClientRect();"
                       "return [box.x + box.width / 2, box.y + box.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key, code=None, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode={"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "End": 35,
                                             "Home": 36, "Escape": 27}.get(key, 0))

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))
