# SPDX-License-Identifier: Apache-2.0
"""The suite's interruption: what is done, what was begun, and how it goes on."""

from __future__ import annotations

import pytest

from benchmark.core import suite
from benchmark.core.suite import Step

# Signals its parent as Ctrl-C would, and saves its records only after that.
INTERRUPTED = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
if "--resume" in sys.argv:
    print("went on with", pathlib.Path(sys.argv[sys.argv.index("--resume") + 1]).read_text())
    raise SystemExit(0)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(1)
(folder / "records.jsonl").write_text("half of it")
raise SystemExit(130)
"""


@pytest.mark.parametrize("kind", ["GRADIENT", "SCALING", "TRAINING"])
def test_an_interrupted_step_saves_and_goes_on(kind, tmp_path, monkeypatch, capfd):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    monkeypatch.setattr(suite, kind, str(script))
    (tmp_path / "first.py").write_text("print('first step')\n")
    steps = [
        Step("first", str(tmp_path / "first.py"), ""),
        Step("second", str(script), "--samples 3"),
    ]
    output = tmp_path / "out"
    assert suite.run(steps, output=output) == 130
    assert "--resume goes on with this step" in capfd.readouterr().err
    assert (output / "records.jsonl").read_text() == "half of it", "it was killed too early"
    assert suite.run(steps, output=output, resume=True) == 0
    shown = capfd.readouterr().out
    assert "done before" in shown
    assert "went on with half of it" in shown
    assert not (output / ".step-begun").exists()
    # A step of the same name and other arguments is another one.
    other = [steps[0], Step("second", str(script), "--samples 4")]
    assert suite.run(other, output=output, resume=True) == 130
