"""A command run in this process: (exit code, standard output, standard error)."""

from __future__ import annotations

import pytest

from bftembed.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["bftembed", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    return call
