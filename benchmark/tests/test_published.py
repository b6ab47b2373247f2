# SPDX-License-Identifier: Apache-2.0
"""The published report: every number has a record, the same records give the same bytes, and the
page works in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark import __main__ as command_line
from benchmark.core import document, page, published, records, styles
from benchmark.core.document import Book, Chart, Code, Heading, Items, Ranking, Series, Table, Text
from benchmark.core.published import advice, method, summary
from benchmark.core.published.library import Library
from benchmark.tests.fabricated import make_leg, make_run

RESULTS = command_line.RESULTS
pytest.importorskip("matplotlib")


def require(name: str, found: bool, reason: str) -> None:
    """Skip where something is missing, or fail where QDP_REQUIRE asks for it."""
    if not found:
        if name in os.environ.get("QDP_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)


def test_the_report_is_what_the_records_give(capsys):
    assert command_line.main(["report", "--check"]) == 0, capsys.readouterr().err


def test_every_number_has_a_record():
    masked = document.markdown(published.blocks(RESULTS, Book(masked=True)))
    assert document.MASK in masked
    assert document.prose_digits(masked) == [], "numbers that no record is cited for"


def test_a_number_without_a_record_is_noticed(monkeypatch):
    def invented(library):
        return [Text("QDP is 1000 times as fast.")]

    monkeypatch.setattr(advice, "conclusions", invented)
    masked = document.markdown(published.blocks(RESULTS, Book(masked=True)))
    assert document.prose_digits(masked) == ["QDP is 1000 times as fast."]


def test_citations_lead_to_the_line_and_figure():
    book = Book()
    published.blocks(RESULTS, book)
    names = ("n_samples", "rows_measured", "case.n_qubits", "case.n_layers", "case.threads")
    exact = dict.fromkeys((*names, "n_qubits", "rows", "threads", "arguments.runs"), 0)
    checked = 0
    for citation in book.citations:
        lines = (RESULTS / citation.file).read_text().splitlines()
        line = json.loads(lines[citation.line - 1])
        if citation.field == "total_ms.median" and line["kind"] == "leg":
            shown = float(citation.text.replace(",", ""))
            derived = line["derived"]["total_ms"]["median"]
            per_row = 1e3 * derived / line["n_samples"]
            assert min(abs(shown / derived - 1), abs(shown / per_row - 1)) < 1e-3
            checked += 1
        if citation.field == "rows_per_second":
            shown = float(citation.text.replace(",", ""))
            assert shown == pytest.approx(line["derived"]["rows_per_second"], rel=1e-3, abs=0.6)
            checked += 1
        if citation.field in exact:
            value = line
            for part in citation.field.split("."):
                value = value[part]
            assert str(value) in citation.text.replace(",", "").split(), citation
            checked += 1
            exact[citation.field] += 1
    assert checked > 100
    assert min(exact.values()) > 0, exact


def test_links_and_pictures_are_there():
    text = command_line.REPORT.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert any(target.endswith("gradient_breakdown.png") for target in targets)
    anchors = {document.anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}
    assert {"recommendations", "43-batch-size"} <= anchors
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (command_line.REPORT.parent / target).exists(), target
    for heading in (
        "Executive Summary",
        "1. Raw Encoding Performance",
        "2. Parameter-Shift Gradient Performance",
        "2.1 Configuration",
        "2.2 Results",
        "2.3 Time Breakdown",
        "End-to-End Training",
        "3. Dataset Impact",
        "3.1 Synthetic vs MNIST",
        "4. Scalability Analysis",
        "4.1 Memory Usage",
        "4.2 GPU Utilization",
        "5. Methodology",
        "5.1 Hardware",
        "5.2 Software Versions",
        "5.3 Measurement Protocol",
        "6. Reproducibility",
        "6.1 Commands",
        "6.2 Data Availability",
        "Recommendations",
        "When not to use QDP",
        "7. Conclusions",
    ):
        assert re.search(rf"^##+ {re.escape(heading)}", text, re.MULTILINE), heading


def test_every_choice_has_a_ground():
    library = Library(RESULTS, Book(masked=True))
    chosen, others = advice.choices(library)
    assert len(chosen) >= 5
    assert len(others) >= 7
    for one in chosen:
        assert document.MASK in one.ground, one.want
    for one in others:
        said = one.ground.startswith((advice.ABSENT, advice.UNMEASURED))
        assert said or document.MASK in one.ground, one.want
    assert sum(document.MASK in one.ground for one in others) >= 2


def test_choices_without_records_say_so(tmp_path):
    chosen, others = advice.choices(Library(tmp_path, Book()))
    assert {one.ground for one in chosen} == {advice.UNMEASURED}
    for one in others:
        assert one.ground.startswith((advice.ABSENT, advice.UNMEASURED)), one.want


def test_the_front_page_has_the_headline_and_the_choices():
    library = Library(RESULTS, Book())
    text = command_line.README.read_text(encoding="utf-8")
    changed = text.replace(library.gradients[12, "adjoint", "sum-z"].run["environment"]["cpu"], "?")
    assert changed != text
    assert command_line.front_page(changed, library) == text
    for one in (*advice.choices(library)[0], *advice.choices(library)[1]):
        assert f"| {one.want} | {one.take} | {one.ground} |" in text


def write_legs(folder: Path, name: str, legs, **machine) -> None:
    """Write a made-up record of gradients, taken on a machine of this kind."""
    run = make_run([10]) | {"created": "2026-01-01T00:00:00", "versions": {}}
    run["environment"] |= {"memory_bytes": 2**30, "gpus": [], "system": "x", "python": "3"}
    run["environment"] |= {"vector_extensions": [], "git": {"commit": "0"}, **machine}
    run["arguments"] |= {"method": "adjoint", "observable": "sum-z"}
    records.write_records(folder / f"gradient_benchmark_{name}.jsonl", run, legs)


def test_losses_are_said(tmp_path):
    legs = [
        make_leg("qdp", 10, [4.0] * 10, method="adjoint"),
        make_leg("numpy", 10, [2.0] * 10, method="adjoint"),
        make_leg("qdp", 20, [4.0] * 10, method="adjoint"),
        make_leg("numpy", 20, [5.0, 3.0] * 5, method="adjoint"),
        make_leg("qdp", 30, [4.0] * 10, method="adjoint"),
        make_leg("numpy", 30, [8.0] * 10, method="adjoint"),
    ]
    write_legs(tmp_path, "20260101_000000", legs)
    library = Library(tmp_path, Book())
    text = document.markdown(summary.losses(library))
    assert text.startswith("Of 3 points")
    assert "QDP was faster at 1." in text
    assert "10 samples | NumPy, gate by gate | 0.50x (0.50x to 0.50x) |" in text
    assert "20 samples | NumPy, gate by gate | not significant (0.75x to 1.25x) |" in text
    assert "30 samples" not in text


def test_marks_of_figures(tmp_path):
    legs = [
        make_leg("qdp", 10, [1.0] * 10),
        make_leg("numpy", 10, [1.0, 2.0] * 5, rows_measured=5),
    ]
    write_legs(tmp_path, "20260101_000000", legs)
    (recorded,) = Library(tmp_path, Book()).gradients.values()
    assert [recorded.rate(leg) for leg in recorded.legs] == ["10,000", "3,333*†"]
    assert [recorded.ms(leg) for leg in recorded.legs] == ["1.000", "3.000*†"]
    assert recorded.us_a_sample(recorded.legs[0]) == "100.0 (100.0 to 100.0)"
    assert recorded.us_a_sample(recorded.legs[1]) == "300.0*† (200.0 to 400.0)"


def test_every_machine_is_named(tmp_path):
    shutil.copy(next(RESULTS.glob("training_benchmark_*.jsonl")), tmp_path)
    write_legs(tmp_path, "20260101_000000", [], cpu="another", gpus=["a GPU"], cpus_usable=8)
    library = Library(tmp_path, Book())
    (_, hardware, _) = summary.head(library)
    assert "another, 8 cores, 1 GiB; a GPU" in hardware.text
    cpu = library.training[0].environment["cpu"]
    assert f"{cpu}, " in hardware.text
    text = document.markdown(method.hardware(library.machines))
    assert "Records [gradient_benchmark](../results/gradient_benchmark_20260101_0" in text
    assert "- GPU: a GPU\n- CPU: another, 8 cores usable" in text
    assert f"- CPU: {cpu}, " in text


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        target = tmp_path / name / "BENCHMARK_REPORT.md"
        assert command_line.main(["report", "--output", str(target), "--no-page"]) == 0
    first = sorted((tmp_path / "first").rglob("*.*"))
    assert len(first) > 5
    for path in first:
        twin = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == twin.read_bytes(), path.name
    for path in RESULTS.glob("gradient_benchmark_*.jsonl"):
        run, legs = records.read_records(path)
        records.write_csv(tmp_path / "again.csv", run, legs)
        assert (tmp_path / "again.csv").read_bytes() == path.with_suffix(".csv").read_bytes()


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*.jsonl")))
def test_a_report_of_one_record(tmp_path, name):
    shutil.copy(RESULTS / name, tmp_path)
    (line,) = records.read_lines(tmp_path / name)[:1]
    if "created" not in line:
        with pytest.raises(ValueError, match="expected records to report on"):
            published.blocks(tmp_path, Book())
        return
    masked = document.markdown(published.blocks(tmp_path, Book(masked=True)))
    assert document.prose_digits(masked) == []
    assert "No records of" in masked
    assert "When not to use QDP" in masked


def test_an_empty_folder_says_how_to_make_records(tmp_path, capsys):
    arguments = ["report", "--records", str(tmp_path), "--output", str(tmp_path / "report.md")]
    assert command_line.main(arguments) == 2
    assert "python -m benchmark run --quick" in capsys.readouterr().err


BLOCKS = [
    Heading(1, "Title"),
    Heading(2, "1. First part"),
    Text("Some `code < x`, **bold** and a [link](there.md)."),
    Table(["Name", "Number"], [["b", "10"], ["a", "9"], ["c", "1,100"]]),
    Code("make test"),
    Chart(
        "lines",
        "Lines",
        "x",
        "y",
        [
            Series("QDP", [1, 2, 4], [1.0, 2.0, 3.0], [0.5] * 3, [4.0] * 3),
            Series("Qulacs", [1, 2], [5.0, 6.0], hollow=[False, True]),
        ],
    ),
    Chart(
        "bars",
        "Bars",
        "",
        "ms",
        [Series("s", ["p", "q"], [1.0, 2.0]), Series("t", ["p", "q"], [2.0, 1.0])],
        bars=True,
        log_y=False,
    ),
    Ranking(
        "ranking",
        "Ranking",
        "ms",
        ["QDP", "Qulacs"],
        [1.0, 50.0],
        [0.9, 40.0],
        [1.1, 60.0],
        [False, True],
    ),
]


def test_markdown_of_each_block():
    text = document.markdown(BLOCKS)
    assert text.startswith("# Title\n\n## 1. First part\n\nSome `code < x`, **bold**")
    assert "| Name | Number |\n| --- | --- |\n| b | 10 |" in text
    assert "```bash\nmake test\n```" in text
    assert "![Lines](./results/lines.png)" in text


def test_pictures_of_charts(tmp_path):
    from matplotlib import image

    for block in BLOCKS:
        if not isinstance(block, Chart | Ranking):
            continue
        document.draw(block, tmp_path / "chart.png")
        pixels = image.imread(tmp_path / "chart.png")
        assert pixels.shape[0] > 300
        if isinstance(block, Ranking):
            colours = [styles.colour_of(name) for name in block.names]
        elif block.bars:
            colours = list(styles.BARS[: len(block.series)])
        else:
            colours = [styles.style_of(series.name).colour for series in block.series]
        for colour in colours:
            wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
            close = np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.02
            assert close.sum() > 80, (block.name, colour)


def page_numbers(text: str) -> list[str]:
    """Return the numbers of a text in their order, without the signs that separate thousands."""
    return re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))


def plain(text: str) -> str:
    """Return a text without its marks, as a page shows it."""
    return re.sub(r"\]\([^)]*\)|[`*\[]", "", text)


def shown(blocks) -> list[str]:
    """Return what a page is to show of every block but charts, one text a line or cell."""
    texts = []
    for block in blocks:
        match block:
            case Heading(_, text) | Text(text):
                texts.append(plain(text))
            case Items(items):
                texts += [plain(item) for item in items]
            case Table(head, rows):
                texts += [plain(cell) for line in (head, *rows) for cell in line]
            case Code(text):
                texts.append(text)
    return texts


def assert_same_numbers(browser, blocks) -> None:
    """Compare every number on the page with the document's, and every point of every chart."""
    found = browser.execute_script(
        "return Array.from(document.querySelectorAll('h1, h2, h3, p, body > ul > li, th, td, pre')"
        ").map(element => element.textContent)"
    )
    expected = shown(blocks)
    assert len(found) == len(expected)
    for on_page, text in zip(found, expected, strict=True):
        assert page_numbers(plain(on_page)) == page_numbers(text)
    for chart in blocks:
        if not isinstance(chart, Chart | Ranking):
            continue
        drawn = browser.execute_script(
            "return document.getElementById(arguments[0]).data.map("
            "one => [one.name, Array.from(one.x), Array.from(one.y)])",
            f"chart-{chart.name}",
        )
        if isinstance(chart, Ranking):
            assert drawn == [[None, list(chart.values), list(chart.names)]]
            continue
        for (name, x, y), series in zip(drawn, chart.series, strict=True):
            assert name == series.name
            assert x == list(series.x)
            assert y == pytest.approx(list(series.y), rel=1e-12)


def opened(path: Path):
    """Return a headless browser with the page open."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.get(path.as_uri())
    return browser


def test_a_contender_looks_the_same_in_picture_and_page():
    (lines,) = [block for block in BLOCKS if isinstance(block, Chart) and not block.bars]
    first, second = page._plotly(lines)["data"]
    style = styles.style_of("QDP")
    assert first["line"] == {"color": style.colour, "dash": "solid", "width": style.width}
    assert second["line"]["color"] == styles.style_of("Qulacs").colour != style.colour
    assert [symbol.endswith("-open") for symbol in second["marker"]["symbol"]] == [False, True]


@pytest.mark.parametrize("whole", [False, True])
def test_the_page_in_a_browser(tmp_path, whole):
    there = bool(shutil.which("chromium") and shutil.which("chromedriver"))
    require("browser", there, "needs chromium and chromedriver")
    pytest.importorskip("selenium")
    blocks = published.blocks(RESULTS, Book()) if whole else BLOCKS
    path = tmp_path / "page.html"
    path.write_text(page.page(blocks, "A page"), encoding="utf-8")
    assert not re.search(r'(src|href)="https?://', path.read_text()[:2000]), "self-contained"
    charts = [block for block in blocks if isinstance(block, Chart | Ranking)]
    browser = opened(path)
    try:
        assert browser.title == "A page"
        for chart in charts:
            element = browser.find_element("css selector", f"#chart-{chart.name} .main-svg")
            assert element.size["height"] > 200, chart.name
            drawn = browser.execute_script(
                "return document.getElementById(arguments[0]).querySelectorAll("
                "'.scatterlayer .trace, .barlayer .trace').length",
                f"chart-{chart.name}",
            )
            assert drawn == (1 if isinstance(chart, Ranking) else len(chart.series)), chart.name
        assert_same_numbers(browser, blocks)
        if not whole:
            changed = [*blocks, Text("1000 times")]
            with pytest.raises(AssertionError):
                assert_same_numbers(browser, changed)
            head = browser.find_elements("css selector", "th")[1]

            def cells():
                rows = browser.find_elements("css selector", "tbody tr td:last-child")
                return [cell.text for cell in rows]

            head.click()
            assert cells() == ["9", "10", "1,100"]
            head.click()
            assert cells() == ["1,100", "10", "9"]
        errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert errors == []
    finally:
        browser.quit()
