"""Judgement on the overview: the page's script against Python, in a real browser."""

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import CATCH_DOWNLOADS, needs_browser, opened, told, with_script
from iqms_study import T1W, draw, write_bold, write_scan, write_t1w
from report_study import check_page

from neuroferry.judgement.ratings import collect_ratings
from neuroferry.judgement.rules import Limit, Outliers, Rules
from neuroferry.judgement.tables import read_scans
from neuroferry.judgement.thresholds import read_rules, write_rules
from neuroferry.reports import write_group_report, write_subject_report
from neuroferry.reports.judged import as_script, judge_folder, page_data, page_of

RULES = Rules(
    (
        Limit("T1w", "cjv", high=0.7),
        Limit("T1w", "snr_total", low=13.5, column="scanner", value="B", then="look"),
        Limit("bold", "fd_perc", high=30.0),
    ),
    Outliers(k=2.5),
    fd_threshold=0.163,  # not one of the steps that the page offers
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Output folder of 40 T1w images and 12 BOLD runs, judged."""
    out = tmp_path_factory.mktemp("judged") / "out"
    write_t1w(out, 40, scanners=("A", "B"), bad=(5, 12))
    write_bold(out, 12)
    write_rules(out / "qc_thresholds.toml", RULES)
    write_group_report(out, None)
    return out


def verdicts(out):
    with (out / "qc_verdicts.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_a_folder_without_runs_has_a_page(folder):
    page = check_page(folder / "index.html")
    assert "Quality of all scans" in page.text()
    assert {"group_T1w.tsv", "group_bold.tsv", "qc_verdicts.tsv"} <= set(page.links)
    assert page.having("div", id="of-T1w")
    assert not page.having("section", id="participants")


def test_the_page_holds_what_was_measured(folder):
    judged = judge_folder(folder)
    data = page_data(folder, judged)
    t1w, bold = data["modalities"]
    scans = read_scans(folder)
    for n, scan in enumerate(scans.of["T1w"]):
        assert {name: m["values"][n] for name, m in t1w["metrics"].items()} == scan.metrics
        column = t1w["columns"]["scanner"]
        assert column["levels"][column["codes"][n]] == scan.columns["scanner"]
    at = bold["motion"]["grid"].index(0.2)
    measured = [scan.metrics["fd_num"] for scan in scans.of["bold"]]
    assert [counts[at] for counts in bold["motion"]["counts"]] == measured
    assert bold["motion"]["volumes"] == [50] * 12


def test_links_go_to_our_reports_or_mriqcs(tmp_path):
    write_scan(tmp_path, "sub-01_T1w", {"cjv": 0.5})
    (scan,) = read_scans(tmp_path)
    assert page_of(tmp_path, scan) == ""
    (tmp_path / "sub-01_T1w.html").touch()
    assert page_of(tmp_path, scan) == "sub-01_T1w.html"
    (tmp_path / "sub-01.html").touch()
    assert page_of(tmp_path, scan) == "sub-01.html#sub-01_T1w"


def test_data_cannot_end_their_script():
    text = as_script({"a": "</script><!--\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--\u2028"}


def test_files_that_cannot_be_used_are_named_on_the_page(tmp_path):
    write_t1w(tmp_path, 2)
    (tmp_path / "qc_thresholds.toml").write_text("[[limit")
    (tmp_path / "qc_ratings.tsv").write_text("x\n")
    write_group_report(tmp_path, None)
    text = check_page(tmp_path / "index.html").text()
    assert "qc_thresholds.toml is not valid TOML" in text
    assert "qc_ratings.tsv has no column bids_name" in text


ROWS = """
function rows(id) {
  return Array.from(document.querySelectorAll("#" + id + " tbody tr")).map(function (row) {
    var texts = Array.from(row.cells).map(function (cell) { return cell.textContent; });
    return [texts[0], texts[1].split(" ")[0], texts[4]];
  });
}
function set(input, value) {
  input.value = value;
  input.dispatchEvent(new Event("change", {bubbles: true}));
}
"""


@needs_browser
def test_the_page_judges_as_the_program_does(folder, tmp_path):
    shown = told(
        folder / "index.html", ROWS + "return rows('of-T1w').concat(rows('of-bold'));", tmp_path
    )
    expected = [
        [row["bids_name"], row["verdict"], row["reasons"]]
        for row in verdicts(folder)
        if row["verdict"] != "accept"
    ]
    assert {level for _, level, _ in expected} == {"look", "exclude"}
    assert sorted(shown) == sorted(expected)


@needs_browser
def test_a_limit_typed_into_the_page_counts_at_once_and_can_be_taken_away(folder, tmp_path):
    script = (
        ROWS
        + CATCH_DOWNLOADS
        + """
        var plot = document.querySelector("#of-T1w .plot");
        var before = document.querySelector("#of-T1w .counts").textContent;
        set(plot.querySelectorAll(".limits input")[1], "0.46");
        set(document.querySelectorAll("#of-bold select")[4], "0.3");
        var after = document.querySelector("#of-T1w .counts").textContent;
        var button = Array.from(document.querySelectorAll("#of-T1w button")).find(function (b) {
          return b.textContent.indexOf("Download") === 0;
        });
        button.click();
        return {before: before, after: after, toml: await saved[0].text(),
                rows: rows("of-T1w").concat(rows("of-bold"))};
        """
    )
    answer = told(folder / "index.html", script, tmp_path)
    assert answer["before"] != answer["after"]
    path = tmp_path / "thresholds.toml"
    path.write_text(answer["toml"])
    rules = read_rules(path)
    assert rules == Rules(
        (Limit("T1w", "cjv", high=0.46), *RULES.limits[1:]), RULES.outliers, fd_threshold=0.3
    )
    again = judge_folder(folder, rules=rules)
    expected = [[v.name, v.final, "; ".join(v.reasons)] for v in again.verdicts]
    assert sorted(answer["rows"]) == sorted(row for row in expected if row[1] != "accept")


@needs_browser
def test_limits_of_one_scanner_and_colours_by_any_column(folder, tmp_path):
    script = (
        ROWS
        + CATCH_DOWNLOADS
        + """
        var selects = document.querySelectorAll("#of-T1w > .controls select");
        set(selects[0], "scanner");
        set(selects[1], "scanner");
        set(document.querySelector("#of-T1w .scope select"), "1");
        var plot = document.querySelectorAll("#of-T1w .plot")[1];
        await until(function () { return plot.querySelector("text.lane"); });
        set(plot.querySelectorAll(".limits input")[0], "3.1");
        document.querySelector("#of-T1w > .controls button").click();
        return {toml: await saved[0].text(), lanes: plot.querySelectorAll("text.lane").length,
                keys: document.querySelectorAll("#of-T1w .legend .key").length,
                labels: plot.querySelector("a").getAttribute("aria-label")};
        """
    )
    answer = told(folder / "index.html", script, tmp_path)
    path = tmp_path / "thresholds.toml"
    path.write_text(answer["toml"])
    added = Limit("T1w", "cnr", low=3.1, column="scanner", value="B")
    assert read_rules(path).limits == (*RULES.limits, added)
    assert answer["lanes"] == answer["keys"] == 2
    assert ", A, " in answer["labels"]


@needs_browser
def test_the_keyboard_walks_through_the_scans(folder, tmp_path):
    script = """
        var plot = document.querySelector("#of-T1w .plot");
        await until(function () { return plot.querySelector("a"); });
        var links = Array.from(plot.querySelectorAll("a"));
        function press(key) {
          var pressed = new KeyboardEvent("keydown", {key: key, bubbles: true});
          document.activeElement.dispatchEvent(pressed);
          return document.activeElement.getAttribute("aria-label");
        }
        links[0].focus();
        return [links.filter(function (a) { return a.getAttribute("tabindex") === "0"; }).length,
                press("ArrowRight"), plot.querySelector(".readout").textContent, press("End"),
                press("ArrowRight"), press("Home"),
                links.map(function (a) { return a.getAttribute("aria-label"); })];
        """
    stops, second, read, last, beyond, first, labels = told(
        folder / "index.html", script, tmp_path
    )
    assert stops == 1
    assert (second, read) == (labels[1], labels[1])
    assert last == beyond == labels[-1]
    assert first == labels[0]
    values = [float(label.split(": ")[1].split(",")[0]) for label in labels]
    assert values == sorted(values)


@needs_browser
def test_odd_text_stays_text(tmp_path):
    odd = "<img src=x onerror=alert(1)>\"'&"
    write_scan(tmp_path, "sub-01_T1w", {"cjv": 0.5, odd: 1.0}, meta={"StationName": odd})
    write_scan(tmp_path, "sub-02_T1w", {"cjv": 0.6, odd: 2.0}, meta={"StationName": "b"})
    write_rules(
        tmp_path / "qc_thresholds.toml",
        Rules(
            (
                Limit("T1w", odd, high=0.0),
                Limit("T1w", "cjv", 0.9, column="StationName", value=odd),
            )
        ),
    )
    write_group_report(tmp_path, None)
    script = (
        ROWS
        + """
        var selects = document.querySelectorAll("#of-T1w > .controls select");
        set(selects[0], "StationName");
        set(selects[1], "StationName");
        set(selects[2], "all");
        await until(function () { return document.querySelectorAll("text.lane").length >= 4; });
        return [document.querySelectorAll("img").length, rows("of-T1w")];
        """
    )
    images, rows = told(tmp_path / "index.html", script, tmp_path / "b")
    assert images == 0
    assert rows[0][2] == f"{odd} 1 is above 0; cjv 0.5 is below 0.9"


@needs_browser
def test_ratings_of_a_report_come_down_as_one_file(study, tmp_path):
    study.start("01")
    study.step("01", "a")
    study.add("01")
    study.add("01", run=2)
    study.end()
    page = write_subject_report(study.out, study.run_dir, "01")
    assert len(check_page(page).having("fieldset", **{"class": "rating"})) == 2
    script = (
        CATCH_DOWNLOADS
        + """
        function press(at, key) {
          at.dispatchEvent(new KeyboardEvent("keydown", {key: key, bubbles: true}));
        }
        var boxes = document.querySelectorAll("fieldset.rating");
        var rater = document.querySelector("[name=rater]");
        press(rater, "1");
        var untouched = document.querySelectorAll(".rating input:checked").length;
        var button = document.querySelector(".rating-bar button");
        button.click();
        var refused = document.querySelector("[role=status]").textContent;
        rater.value = "Ann A.";
        rater.dispatchEvent(new Event("input", {bubbles: true}));
        boxes[1].querySelector("[value=inu]").click();
        press(boxes[1].querySelector("input"), "2");
        boxes[1].querySelector("[value=ghost-other]").click();
        boxes[1].querySelector("textarea").value = "a \\"comment\\"";
        boxes[1].querySelector("textarea").dispatchEvent(new Event("input", {bubbles: true}));
        press(boxes[0].querySelector("input"), "4");
        button.click();
        return [untouched, refused, await saved[0].text(), saved.length];
        """
    )
    untouched, refused, text, files = told(page, script, tmp_path / "b")
    assert (untouched, files) == (0, 1)
    assert refused == "Give your name first."
    (tmp_path / "ratings.json").write_text(text)
    collected = collect_ratings([tmp_path / "ratings.json"])
    assert collected.notes == ()
    one, two = collected.ratings
    assert (one.name, one.rating, one.rater) == ("sub-01_T1w", 4.0, "Ann A.")
    assert (two.name, two.rating) == ("sub-01_run-2_T1w", 2.0) or (
        one.name,
        one.rating,
    ) == ("sub-01_run-2_T1w", 2.0)


class Server(BaseHTTPRequestHandler):
    """A server that announces that it takes ratings, as docs/judgement.rst has it."""

    page = b""
    got = []
    announces = True

    def answer(self, code, content, kind):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path == "/ratings" and self.announces:
            says = {"accepts": "neuroferry-ratings", "version": 1}
            self.answer(200, json.dumps(says).encode(), "application/json")
        elif self.path == "/page.html":
            self.answer(200, self.page, "text/html; charset=utf-8")
        else:
            self.answer(404, b"", "text/plain")

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, self.headers["Content-Type"], json.loads(text)))
        self.answer(201, b"", "text/plain")

    def log_message(self, *_):
        """Say nothing."""


@needs_browser
@pytest.mark.parametrize("announces", [True, False])
def test_a_server_that_takes_ratings_gets_them(study, tmp_path, announces):
    study.start("01")
    study.add("01")
    study.end()
    page = write_subject_report(study.out, study.run_dir, "01")
    script = """
        var rater = document.querySelector("[name=rater]");
        rater.value = "ann";
        rater.dispatchEvent(new Event("input", {bubbles: true}));
        document.querySelector(".rating input[value='3']").click();
        await new Promise(function (done) { setTimeout(done, 1500); });
        return document.querySelector("[role=status]").textContent;
        """
    Server.page, Server.announces = with_script(page, script).encode(), announces
    Server.got.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status = opened(f"http://127.0.0.1:{server.server_port}/page.html", tmp_path / "b")
        server.shutdown()
    if not announces:
        assert Server.got == []
        assert status == "1 of 1 rated."
        return
    ((path, kind, content),) = Server.got
    assert (path, kind) == ("/ratings", "application/json")
    assert status == "Saved: sub-01_T1w."
    (tmp_path / "r.json").write_text(json.dumps(content))
    (rating,) = collect_ratings([tmp_path / "r.json"]).ratings
    assert (rating.name, rating.rating, rating.rater) == ("sub-01_T1w", 3.0, "ann")


def test_two_thousand_scans_are_judged_and_shown_in_seconds(tmp_path):
    import time

    import numpy as np

    rng = np.random.default_rng(0)
    for n in range(2000):
        write_scan(tmp_path, f"sub-{n:04d}_T1w", draw(rng, T1W), meta={"StationName": str(n % 7)})
    start = time.process_time()
    page = write_group_report(tmp_path, None)
    assert time.process_time() - start < 15
    assert page.stat().st_size < 2_000_000
