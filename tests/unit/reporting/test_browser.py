"""The page in a real browser: it says what it should, and nothing covers anything else."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import pytest
from support.reports import HOSTILE, audit, evaluation, given, plan, run_told, update_audit

from fedlpp_cli.records.plans import PlanTargets
from fedlpp_cli.reporting.compose import compose
from fedlpp_cli.reporting.page import html_of

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH: apt-get install chromium")

# What is wrong with how figures are laid out, as the browser measured it.
MEASURE = """
<script>
const wrong = [];
for (const svg of document.querySelectorAll("svg")) {
  const name = svg.getAttribute("aria-labelledby"), frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
  texts.forEach(([words, a], index) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      wrong.push(`${name}: ${words} is cut`);
    for (const [others, b] of texts.slice(index + 1))
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
        wrong.push(`${name}: ${words} covers ${others}`);
  });
}
if (document.documentElement.scrollWidth > document.documentElement.clientWidth) wrong.push("the page is too wide");
document.title = "measured " + JSON.stringify([document.querySelectorAll("svg").length, wrong]);
</script>
"""


TARGETS = PlanTargets(max_rho=0.05, max_loss_increase=0.01)


def story(clients):
    reports = (
        given(evaluation(6), "scores", number=1),
        given(
            audit((0.9, 0.97, 0.93, 0.2, None), max_rho=0.95, words="with a rather long description"), "3bits", number=2
        ),
        given(audit((0.4, -0.5), n_bytes=160_000), "2bits", number=3),
        given(plan((0.99, 0.97, 0.95, 0.9), words="with a rather long description"), "plan", number=4),
        given(plan([number / 9 for number in range(9)], targets=TARGETS), "wide plan", number=5),
        given(update_audit(), "update", number=6),
    )
    return replace(run_told(6, clients, reason=HOSTILE, private=True), reports=reports)


def loaded(path, width=1000):
    """The page as the browser has it, after everything."""
    profile = path.parent / "profile"
    call = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
    ]
    done = subprocess.run([*call, "--dump-dom", path.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


@pytest.mark.parametrize(("n_clients", "width"), [(3, 1000), (40, 1000), (3, 420)])
def test_nothing_is_cut_or_covered(n_clients, width, tmp_path):
    page = html_of(compose(story([f"client-{number:02d}" for number in range(n_clients)])))
    measured = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace(
        "</body>", f"{MEASURE}</body>"
    )
    (tmp_path / "page.html").write_text(measured)
    title = unescape(re.search(r"<title>measured (.*?)</title>", loaded(tmp_path / "page.html", width))[1])
    n_figures, wrong = json.loads(title)
    assert (n_figures > 8, wrong) == (True, [])


def test_the_browser_runs_nothing_that_is_on_the_page(tmp_path):
    page = html_of(compose(story(["bank"])))
    (tmp_path / "page.html").write_text(page)
    shown = loaded(tmp_path / "page.html")
    assert "<title>Federation ffffffffffff</title>" in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    # The policy also stops a script that would get onto the page.
    (tmp_path / "page.html").write_text(page.replace("</body>", "<script>document.title = 'ran'</script></body>"))
    assert "<title>Federation ffffffffffff</title>" in loaded(tmp_path / "page.html")
