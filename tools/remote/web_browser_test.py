"""The page in a real browser."""

import re
import shutil
import subprocess
import threading
import time

import pytest

from tools.remote import web
from tools.remote.status import assemble
from tools.remote.status_example import WANTED, facts

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    # What is not on this machine has no address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture
def chromium(tmp_path):
    """Returns a function that starts it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")

    def start(*arguments):
        return subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process):
    """What it prints and what it says of itself."""
    with process:
        try:
            output, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said
    return output, said


@pytest.fixture
def server():
    with web.Server(0, lambda: assemble(WANTED, facts(answers=False))) as server:
        handler, server.asked = server.RequestHandlerClass, []

        class Recorded(handler):
            def do_GET(self):
                server.asked.append(self.path)
                super().do_GET()

        server.RequestHandlerClass = Recorded
        server.url = f"http://{web.HOST}:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_page_in_a_browser(chromium, server):
    page, said = finish(chromium("--dump-dom", server.url))
    rows = [re.sub(r"<[^>]*>", "|", row) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    assert any("cpu-1" in row and "|busy|" in row and "//trainers/data:packing_test since 12 s" in row for row in rows)
    assert any("casd" in row and "restarted 2 times" in row for row in rows)
    assert re.search(r'id="health">down<', page)
    assert server.asked == ["/"]
    # What the page's own policy, or the browser, refused stands on its console.
    assert "CONSOLE" not in said


def test_page_loads_itself_anew(chromium, server):
    # (with a port for a debugger it stays)
    process = chromium("--remote-debugging-port=0", server.url)
    try:
        deadline = time.monotonic() + 40
        while len(server.asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.terminate()
        process.communicate()
    assert server.asked[:3] == ["/", "/", "/"]


def test_page_has_colours_and_fits(chromium, server, tmp_path):
    picture = tmp_path / "page.png"
    finish(chromium(f"--screenshot={picture}", "--window-size=1100,900", server.url))
    assert picture.stat().st_size > 20_000
