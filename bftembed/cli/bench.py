"""`bftembed bench …`: embeddings in, the results table out."""

from __future__ import annotations

import typer

from bftembed.cli.bench_clustering import clustering
from bftembed.cli.bench_genes import genes
from bftembed.cli.bench_integration import integration
from bftembed.cli.bench_multimodal import multimodal
from bftembed.cli.bench_perturbation import perturbation

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score embeddings; each score beside its floors.")
app.command("clustering")(clustering)
app.command("genes")(genes)
app.command("integration")(integration)
app.command("multimodal")(multimodal)
app.command("perturbation")(perturbation)
