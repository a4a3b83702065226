"""What all commands share: options from the verb's signature, help, exit codes, JSON, renamed options."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console
from tests_paths import REPOSITORY

from bftembed.cli import RENAMED, app
from bftembed.cli._verbs import REQUIRED, UNKNOWN, field_lines, read_verb


def commands(group=app, path=()):
    """Yield the words of every command, and its function."""
    if group.default_command is not None and getattr(group.default_command, "verb", None):
        yield " ".join(path), group.default_command
    for name in group:
        if not name.startswith("-"):
            yield from commands(group[name], (*path, name))


COMMANDS = dict(commands())


def options_of(command):
    group = app
    for word in command.split():
        group = group[word]
    return {name for one in group.assemble_argument_collection() if one.parse for name in one.names}


def test_options_are_those_of_the_verb_and_all_are_described(run, monkeypatch):
    monkeypatch.setattr(app, "_console", Console(width=1000))  # no line is folded
    for command, made in COMMANDS.items():
        module, _, name = made.verb.partition(":")
        function = getattr(importlib.import_module(module), name)
        real, docstring = inspect.signature(function).parameters, inspect.getdoc(function)
        about, options = read_verb(made.verb)
        assert [one.name for one in options] == list(real)
        code, printed, _ = run(*command.split(), "--help")
        assert (code, about.splitlines()[0] in printed) == (0, True), command
        for one in options:
            default = inspect.Parameter.empty if one.default is REQUIRED else one.default
            assert default is UNKNOWN or real[one.name].default == default, (command, one.name)
            assert re.search(rf"^(\w+, )*{one.name}(, \w+)*$", docstring, re.MULTILINE), (command, one.name)
            assert one.name not in made.__signature__.parameters or one.help in printed, (command, one.name)
        assert {one for one in options_of(command) if one.startswith("--")} <= set(re.findall(r"--[\w-]+", printed))


def test_help_and_usage_errors_import_nothing_heavy():
    lines = ["", "--version", *(f"{command} --help" for command in COMMANDS), "cells embed x --nothing"]
    code = (
        "import sys; from bftembed.cli import run\n"
        f"for line in {lines}: run(line.split())\n"
        "heavy = {'numpy', 'pandas', 'torch', 'anndata', 'h5py', 'sklearn', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 0, ""),
        ("cells", 0, ""),
        ("profiles generate TP53", 2, "--out"),
        ("profiles generate none.txt --out s --generator facts", 1, "none.txt"),
        ("profiles generate TP53 --out s --generator fact", 1, "Did you mean 'facts'"),
        ("profiles generate TP53 --out s --generatr facts", 2, "Did you mean --generator?"),
        ("profiles show none", 1, "No profile store in none"),
        ("profiles shw none", 2, 'Did you mean "show"'),
        ("config check none.yaml", 1, "No such config file"),
        ("tune none.yaml", 1, "No such config file"),
        ("genes resolve TP53,ZZZ9Q", 3, ""),
        ("cells embed a.h5ad --genes b --block-rows 4", 2, "--block-rows"),
        ("cells embed a.h5ad --genes b --top-k many", 2, "--top-k"),
    ],
)
def test_exit_codes_and_one_line_for_a_mistake(run, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    left, _, told = run(*words.split())
    assert left == code, told
    assert message in told
    assert told.count("\n") == (1 if code in (1, 2) else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "option"), RENAMED)
def test_a_renamed_option_says_its_new_name(run, command, option):
    words = command or "cells embed"
    assert option not in options_of(words)
    code, _, told = run(*words.split(), "x", option)
    assert code == 2
    assert RENAMED[command, option] in told


def test_a_result_is_printed_field_by_field():
    fields = {"n_cells": 1200, "share": 0.12345, "none": None, "n_failed": 0, "whole": False, "names": ["a", "b"]}
    more = {"marks": {"ok": 2, "cut": 0}, "matrix": {"dtype": "f4"}, "origins": [{"id": "x", "n": 1}]}
    lines = [line.split(maxsplit=1) for line in field_lines(fields | more)]
    expected = [["cells", "1,200"], ["share", "0.1235"], ["whole", "no"], ["names", "'a', 'b'"], ["marks", "2 ok"]]
    assert lines == [*expected, ["matrix"], ["dtype", "f4"], ["origins"], ["id", "x, n 1"]]


def test_json_stands_anywhere_and_is_one_object(run):
    for words in (("--json", "genes", "resolve", "TP53,p53"), ("genes", "resolve", "--json", "TP53", "p53")):
        code, printed, told = run(*words)
        assert (code, told) == (0, "")
        assert json.loads(printed)["counts"]["total"] == 2


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = f"{sys.executable} -c 'from bftembed.cli import main; main()' data list | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, "")


def test_bytes_that_are_no_text_are_printed_as_escapes():
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "genes", "resolve", b"TP53,A\xff"]
    for extra in ([], ["--json"]):
        done = subprocess.run([*command, *extra], capture_output=True, check=False)
        assert done.returncode == 3, done.stderr
        assert b"udcff" in done.stdout


def test_messages_name_options_that_exist():
    known = {name for command in COMMANDS for name in options_of(command)} | {"--json"}
    others = {"--adt", "--rna", "--draws", "--joined-key", "--list-tasks"}  # of bench/, for Python alone
    others |= {"--no-deps", "--data-parallel-size", "--checkpoint", "--output-dir", "--nproc", "--ground", "--profile"}
    for path in (REPOSITORY / "bftembed").rglob("*.py"):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", node.value))
                assert found <= known | others, (path, node.lineno, found - known - others)
