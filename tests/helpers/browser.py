"""A real browser, where there is one: opens a page from its file and runs a script in it."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

_AFTER = """
<script>
window.said = [];
window.addEventListener("error", function (event) { window.said.push(event.message); });
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


def told(page, script, folder):
    """Open a page, run the body of a function in it, and give what it returns.

    Anything that the page itself throws fails the test.
    """
    text = page.read_text(encoding="utf-8")
    before, head, after = text.partition("<head>")
    copy = page.with_name(f"{page.stem}.try.html")
    copy.write_text(f"{before}{head}{_AFTER % script}{after}", encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder}", "--virtual-time-budget=8000", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    copy.unlink()
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    answer = json.loads(unescape(found))
    assert answer["errors"] == []
    return answer["result"]


#: Keeps what a page offers for download in `saved`.
CATCH_DOWNLOADS = """
var saved = [];
URL.createObjectURL = function (blob) { saved.push(blob); return "#"; };
"""
