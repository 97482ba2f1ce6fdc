"""A real browser, where there is one: opens a page from its file and runs a script in it."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


def needs_browser(test):
    """Mark a test that opens a browser, which takes seconds."""
    return pytest.mark.slow(pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")(test))


_AFTER = """
<script>
window.said = [];
// Waits until something is there, such as a plot that is drawn once it is seen.
async function until(test) {
  for (var n = 0; n < 100; n += 1) {
    var found = test();
    if (found) { return found; }
    // a browser without a screen may never say what is seen; who prints sees all
    if (n === 50) { window.dispatchEvent(new Event("beforeprint")); }
    await new Promise(function (done) { setTimeout(done, 50); });
  }
  throw new Error("it never came: " + test);
}
window.addEventListener("error", function (event) { window.said.push(event.message); });
// The clock of the browser jumps to its end if no timer waits, even while a file is read.
setInterval(function () {}, 5);
window.addEventListener("load", function () { setTimeout(async function () {
  var result;
  try { result = await (async function () { %s })(); } catch (error) { result = String(error); }
  var box = document.createElement("pre");
  box.id = "told";
  box.textContent = JSON.stringify({result: result, errors: window.said});
  document.body.appendChild(box);
}, 300); });
</script>
"""


def with_script(page, script):
    """Give the text of a page that runs the body of a function and keeps what it returns."""
    before, head, after = page.read_text(encoding="utf-8").partition("<head>")
    return f"{before}{head}{_AFTER % script}{after}"


def opened(address, folder):
    """Open a page made by `with_script` in a browser whose profile is `folder`.

    Anything that the page itself throws fails the test.
    """
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder}", "--window-size=1300,3000"]
    command += ["--virtual-time-budget=12000", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    answer = json.loads(unescape(found))
    assert answer["errors"] == []
    return answer["result"]


def told(page, script, folder):
    """Open a page from its file, run the body of a function in it, and give what it returns."""
    copy = page.with_name(f"{page.stem}.try.html")
    copy.write_text(with_script(page, script), encoding="utf-8")
    try:
        return opened(copy.as_uri(), folder)
    finally:
        copy.unlink()


#: Keeps what a page offers for download in `saved`.
CATCH_DOWNLOADS = """
var saved = [];
URL.createObjectURL = function (blob) { saved.push(blob); return "#"; };
"""
