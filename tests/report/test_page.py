"""The page of a report, opened in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import check_folders as made
import pytest
from PIL import Image

PROBE = """
<script>
const click = (name) => [...document.querySelectorAll("th button")].find(
  (each) => each.textContent === name && each.closest("h3 + .wide, .wide")).click();
const column = (name) => {
  const head = [...document.querySelectorAll("th")].find((th) => th.textContent === name);
  const rows = [...head.closest("table").tBodies[0].rows];
  return rows.map((row) => row.cells[head.cellIndex].dataset.key);
};
const found = {images: [...document.images].map((image) => image.naturalWidth)};
for (const name of ["test auroc", "commit"]) {
  click(name); found[name + " up"] = column(name);
  click(name); found[name + " down"] = column(name);
}
const box = document.querySelector(".zoom input");
box.click();
found.enlarged = box.nextElementSibling.getBoundingClientRect().width / innerWidth;
const out = document.createElement("pre");
out.id = "found";
out.textContent = JSON.stringify(found);
document.body.append(out);
</script>
"""

BROWSERS_OWN = re.compile(r"(google|googleapis|gvt1|gstatic)\.com$")
"""Hosts that Chromium itself asks for updates."""


@pytest.fixture
def browse(tmp_path: Path):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium here; apt-get install chromium")

    def call(page: Path, *options: str) -> tuple[str, str]:
        common = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        common += ["--disable-background-networking", "--no-first-run", "--disable-sync"]
        common += [f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=5000"]
        done = subprocess.run(
            [browser, *common, *options, page.as_uri()],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout, done.stderr

    return call


@pytest.mark.slow
def test_the_page_in_a_browser(command, plots, browse, tmp_path: Path) -> None:
    root = tmp_path / "folders"
    made.write_sound(root)
    shutil.copytree(root / "sweep/0", root / "sweep" / "<script>alert(1)<" / "script>")
    assert command(f"inputs={root}", "hydra.run.dir=made", name="report")[0] == 0
    page = Path("made/report.html").absolute()

    def hosts(page: Path) -> set[str]:
        log = tmp_path / "net.json"
        browse(page, f"--log-net-log={log}", "--host-resolver-rules=MAP * ~NOTFOUND")
        found = re.findall(r'"url":"(?:http|ws)s?://([^/"]+)', log.read_text())
        return {host for host in found if not BROWSERS_OWN.search(host)}

    control = tmp_path / "control.html"
    control.write_text('<img src="http://example.org/x.png">')
    assert hosts(control) == {"example.org"} and hosts(page) == set()

    dom, errors = browse(page, "--dump-dom")
    assert "CONSOLE" not in errors
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom

    # A copy without the policy, which forbids the script of this test.
    text = page.read_text()
    copy = tmp_path / "copy.html"
    copy.write_text(
        re.sub(r"<meta http-equiv=.*?>", "", text).replace("</body>", PROBE + "</body>")
    )
    dom, _ = browse(copy, "--dump-dom")
    match = re.search(r'<pre id="found">(.*?)</pre>', dom)
    assert match, "the script of this test failed"
    found = json.loads(match[1])
    assert len(found["images"]) == text.count("<img ") > 0 and min(found["images"]) > 100
    scores = list(map(float, found["test auroc up"]))
    assert scores == sorted(scores) and len(set(scores)) > 2
    assert list(map(float, found["test auroc down"])) == scores[::-1]
    assert found["commit up"] == sorted(found["commit up"])
    assert found["enlarged"] > 0.9

    for name, size in (("desktop", "1300,2000"), ("phone", "500,1200")):
        shot = tmp_path / f"{name}.png"
        browse(page, f"--screenshot={shot}", f"--window-size={size}")
        with Image.open(shot) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50


@pytest.mark.slow
def test_the_page_is_as_wide_as_a_phone(command, plots, browse, tmp_path: Path) -> None:
    root = tmp_path / "folders"
    made.write_sound(root)
    assert command(f"inputs={root}", "hydra.run.dir=made", name="report")[0] == 0
    text = Path("made/report.html").read_text()
    script = "<script>document.title = document.documentElement.scrollWidth</script>"
    copy = tmp_path / "copy.html"
    copy.write_text(
        re.sub(r"<meta http-equiv=.*?>", "", text).replace("</body>", script + "</body>")
    )
    dom, _ = browse(copy, "--dump-dom", "--window-size=500,1000")
    match = re.search(r"<title>(\d+)</title>", dom)
    assert match and int(match[1]) <= 500
