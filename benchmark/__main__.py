# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmark``: run the suite, write the report, compare two sets of records.

python -m benchmark run --quick            # or --full
python -m benchmark report                 # BENCHMARK_REPORT.md, its pictures, and the page
python -m benchmark compare before after   # two files or folders of records
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.core import comparison, published, suite
from benchmark.core.document import Book, Chart, Ranking, draw, markdown, replaced
from benchmark.core.page import page
from benchmark.core.published import advice, summary
from benchmark.core.published.library import Library
from benchmark.core.records import atomic_write

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
REPORT = ROOT / "docs" / "BENCHMARK_REPORT.md"
README = ROOT.parent / "README.md"
BEGIN = "<!-- {part}: begin, written by python -m benchmark report -->"
END = "<!-- {part}: end -->"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run the suite, one benchmark after the other")
    size = run.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="three minutes (the default)")
    size.add_argument("--full", action="store_true", help="three quarters of an hour on two cores")
    run.add_argument("--only", nargs="+", metavar="STEP", help="steps by name")
    run.add_argument("--list", action="store_true", help="list the steps and run nothing")
    run.add_argument("--resume", action="store_true", help="leave out the steps done before")
    run.add_argument("--output-dir", type=Path, default=Path("results"))

    report = commands.add_parser("report", help="write the report from records")
    report.add_argument("--records", type=Path, default=RESULTS, help="folder of the records")
    report.add_argument("--output", type=Path, default=REPORT, help="the Markdown file")
    report.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if it would change"
    )
    report.add_argument("--provenance", action="store_true", help="list each number's record")
    report.add_argument("--no-page", action="store_true", help="write no HTML page")

    compare = commands.add_parser("compare", help="tell two sets of records apart")
    compare.add_argument("before", type=Path, metavar="A")
    compare.add_argument("after", type=Path, metavar="B")
    compare.add_argument(
        "--fail-on-slower", action="store_true", help="exit status 3 if QDP is slower in B anywhere"
    )
    compare.add_argument("--all", action="store_true", help="list what is not significant too")
    return parser


def front_page(document: str, library: Library) -> str:
    """Return the project's front page with the parts between its markers made from records."""
    parts = {
        "headline": summary.headline(library),
        "choices": markdown(advice.front_page(library)).rstrip(),
    }
    for part, content in parts.items():
        document = replaced(document, BEGIN.format(part=part), END.format(part=part), content)
    return document


def write_report(arguments: argparse.Namespace) -> int:
    """Write Markdown, pictures and page, or check or explain them."""
    book = Book()
    blocks = published.blocks(arguments.records, book)
    text = markdown(blocks)
    if arguments.provenance:
        for citation in book.citations:
            print(f"{citation.text}\t{citation.file}:{citation.line}\t{citation.field}")
        return 0
    wanted = {arguments.output: text}
    if arguments.output == REPORT:
        library = Library(arguments.records, book)
        wanted[README] = front_page(README.read_text(encoding="utf-8"), library)
    if arguments.check:
        changed = [
            path.name
            for path, content in wanted.items()
            if not path.exists() or path.read_text(encoding="utf-8") != content
        ]
        if changed:
            print(
                f"error: {' and '.join(changed)} would change: not what the records give; run "
                "python -m benchmark report",
                file=sys.stderr,
            )
        return 1 if changed else 0
    for path, content in wanted.items():
        atomic_write(path, content.encode())
    pictures = arguments.output.parent / "results"
    for block in blocks:
        if isinstance(block, Chart | Ranking):
            draw(block, pictures / f"{block.name}.png")
    print(f"Saved: {arguments.output}")
    if not arguments.no_page:
        target = arguments.output.with_suffix(".html")
        atomic_write(target, page(blocks, published.TITLE).encode())
        print(f"Saved: {target}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.command == "run":
            return suite.run(
                suite.FULL if arguments.full else suite.QUICK,
                output=arguments.output_dir,
                only=arguments.only,
                resume=arguments.resume,
                listing=arguments.list,
            )
        if arguments.command == "report":
            return write_report(arguments)
        return comparison.main(
            arguments.before,
            arguments.after,
            fail_on_slower=arguments.fail_on_slower,
            everything=arguments.all,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
