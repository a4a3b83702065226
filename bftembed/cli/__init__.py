"""The command line: every command is a public verb, loaded when it is called."""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError, Parameter

from bftembed import __version__
from bftembed.cli._verbs import ERROR, INTERRUPTED, say
from bftembed.errors import BftembedError

USAGE = 2

#: Command or group → its place in ``bftembed/cli``, imported when called, and what the list of commands says of it.
COMMANDS = {
    "run": (
        "runs:run",
        "Run a config: the whole job from cells to report, a tuning, or one command. Resumes where it was stopped.",
    ),
    "demo": (
        "runs:demo",
        "Run the main job on packaged models and cells: tuning, profiles, embeddings, clustering, report.",
    ),
    "profiles": ("profiles:app", "Write, export and read profiles."),
    "genes": ("genes:app", "Resolve gene names, embed profiles, draw a map."),
    "cells": ("cells:app", "Embed cells: expression times gene embeddings."),
    "bench": ("runs:bench", "Score embeddings, each with its baselines."),
    "eval": ("runs:evaluation", "Evaluate a language model: MMLU, PubMedQA, gene sets, perturbations and others."),
    "tune": ("tune:app", "Tune a language model, make data for it, and look at its uncertainty."),
    "export": ("files:export", "Inputs for other models (STATE), and their check."),
    "data": ("files:data", "Public files of labels, pairs and texts by name."),
    "config": ("files:config", "Copy, show and check config files."),
    "report": (
        "runs:report",
        "Write the tables of one or several results files, in the format of the suffix of --out.",
    ),
}

#: Options of version 0.1 with another name, by command ("" for every one). For one version.
RENAMED = {
    ("", "--raw"): "--use-raw",
    ("bench clustering", "--no-floors"): "bftembed.bench.clustering(permuted=False) in Python",
    ("bench integration", "--dots"): "--figure",
    ("bench genes", "--no-floors"): "--no-baselines",
    ("bench genes", "--list-tasks"): "bftembed bench tasks",
    ("bench genes", "--protocol"): "--protocols",
    ("bench genes", "--report"): "bftembed report RESULTS --out FILE.html",
    ("demo", "--config"): "bftembed run CONFIG",
    ("demo", "--genes"): "--n-genes",
    ("export state", "--holdout-cell-type"): "--holdout-cell-types",
    ("export state", "--val-cell-type"): "--val-cell-types",
    ("profiles generate", "--max-new-tokens"): "an option of the generator: --generator SPEC,max_new_tokens=N",
    ("tune diagnose", "--responses"): "--max-responses",
}

app = App(
    name="bftembed",
    help="Gene and protein profiles by language models, as embeddings for single-cell biology, measured honestly.",
    version=f"bftembed {__version__}",
    version_flags=["--version"],
    help_format="plaintext",
    help_epilogue="With --json a command prints one JSON object on standard output. "
    "Exit codes: 0 done, 1 error, 2 usage, 3 done with failed items.",
    group_parameters="Options",
    default_parameter=Parameter(negative_iterable=(), show_env_var=False),
    suppress_keyboard_interrupt=False,
)
for _number, (_name, (_place, _help)) in enumerate(COMMANDS.items()):
    app.command(f"bftembed.cli.{_place}", name=_name, help=_help, sort_key=_number)


def main() -> None:
    """Run the command line: exit codes 0 done, 1 error, 2 usage, 3 done with failed items, 130 interrupted."""
    # Threads of GNU OpenMP (torch on Linux) spin while they wait for each other, which takes several times the CPU time
    # of the work itself where other programs share the cores. It is read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run a command and return its exit code; an error is one line on standard error."""
    own = [word for i, word in enumerate(words) if word != "--json" or "--" in words[:i]]
    as_json = len(own) < len(words)
    try:
        command, bound, ignored = app.parse_args(own, exit_on_error=False, print_error=False)
        code = command(*bound.args, **bound.kwargs, **({"as_json": as_json} if "as_json" in ignored else {}))
        sys.stdout.flush()
        return code or 0
    except CycloptsError as err:
        say(f"error: {_renamed(err, own) or err}")
        return USAGE
    except BftembedError as err:
        say(f"error: {err}")
        return ERROR
    except KeyboardInterrupt:
        say("interrupted. What was finished is kept; run the same command to go on.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR


def _renamed(err: CycloptsError, words: list[str]) -> str | None:
    """Return what to say of an option that has another name."""
    command = " ".join(err.command_chain or ())
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        new = RENAMED.get((command, option)) or RENAMED.get(("", option))
        if new is not None:
            return f"{option} is now {new}."
    return None
