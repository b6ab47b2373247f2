# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, its exit status, and both ways to start it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import qdp
from qdp.cache import entries
from qdp.cli import main

DATA = np.arange(1.0, 13.0).reshape(3, 4)


@pytest.fixture
def directory(tmp_path):
    """A folder with one entry: 3 compact rows on 2 qubits."""
    folder = tmp_path / "my states"
    qdp.StateCache(folder).encode_all(DATA, "amplitude")
    return folder


def test_ls(directory, capsys):
    (entry,) = entries(directory)
    assert main(["cache", "ls", str(directory)]) == 0
    assert capsys.readouterr().out == (
        # two headers of 128 bytes; 3 rows of 4 features and a norm
        f"{entry.name}  3 rows  2 qubits  compact  376 B  Amplitude(normalize=True, pad=True)\n"
    )


def test_an_incomplete_entry_is_listed_as_such(tmp_path, capsys):
    data = np.array([[1.0, 2.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="zeros only"):
        qdp.StateCache(tmp_path).encode_all(data, chunk_rows=1)
    assert main(["cache", "ls", str(tmp_path)]) == main(["cache", "verify", str(tmp_path)]) == 0
    listed, verified = capsys.readouterr().out.splitlines()
    assert listed.endswith("incomplete")
    assert verified.endswith("good, incomplete  1 rows")


def test_verify_names_the_damaged_file(directory, capsys):
    (entry,) = entries(directory)
    assert main(["cache", "verify", str(directory)]) == 0
    assert capsys.readouterr().out == f"{entry.name}  good  3 rows\n"
    path = entry / "features-000000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert main(["cache", "verify", str(directory), entry.name]) == 1
    assert str(path) in capsys.readouterr().err


def test_a_damaged_manifest_can_be_listed_and_removed(directory, capsys):
    (entry,) = entries(directory)
    (entry / "manifest.json").write_text("{")
    assert main(["cache", "ls", str(directory)]) == 1
    assert "manifest.json: expected a manifest" in capsys.readouterr().err
    assert main(["cache", "rm", str(directory), entry.name]) == 0
    assert entries(directory) == []


def test_rm_removes_what_is_named_alone(directory, capsys):
    (first,) = entries(directory)
    qdp.StateCache(directory).encode_all(DATA, "amplitude", 3)
    assert main(["cache", "rm", str(directory), first.name]) == 0
    assert first not in entries(directory)
    assert len(entries(directory)) == 1
    assert main(["cache", "rm", str(directory), first.name]) == 1
    assert "expected the name of an entry" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "rm", str(directory)])


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["cache", "ls", str(tmp_path / "none")]) == 1
    assert "expected a folder of cached states" in capsys.readouterr().err


def test_both_ways_to_start_it(directory):
    result = subprocess.run(
        [sys.executable, "-m", "qdp", "cache", "ls", str(directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(entries(directory)[0].name)
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["scripts"] == {"qdp": "qdp.cli:main"}
