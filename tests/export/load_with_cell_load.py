"""Load folders with cell-load as STATE's training does, in an environment of its own; called by a test.

Standard input: JSON of name → [folder, output space]. Standard output, last line: JSON of name → error, ""
where all went well.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from cell_load.data_modules import PerturbationDataModule

os.chdir("/")


def load(folder: Path, question: str, output_space: str) -> None:
    """Set up, and take a batch of each split through a linear layer of the width of the features."""
    module = PerturbationDataModule(
        toml_config_path=str(folder / f"{question}.toml"),
        embed_key="X_bft",
        output_space=output_space,
        pert_col="gene",
        cell_type_key="cell_type",
        batch_col="gem_group",
        control_pert="non-targeting",
        num_workers=0,
        batch_size=2,
        cell_sentence_len=4,
        perturbation_features_file=str(folder / "pert_features.pt"),
        barcode=True,
    )
    module.setup()
    dims = module.get_var_dims()
    width = dims["hvg_dim" if output_space == "gene" else "gene_dim"]
    if len(dims["gene_names"]) != width:
        raise ValueError(f"{len(dims['gene_names'])} gene names for {width} genes")
    encoder = torch.nn.Linear(dims["pert_dim"], 8)
    decoder = torch.nn.Linear(dims["input_dim"], width)
    for batches in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in batches:
            encoder(batch["pert_emb"])
            (decoder(batch["pert_cell_emb"]) - batch["pert_cell_counts"]).abs().mean()


found = {}
for name, (folder, output_space) in json.loads(sys.stdin.read()).items():
    try:
        for question in ("zeroshot_celltype", "unseen_gene"):
            load(Path(folder), question, output_space)
        found[name] = ""
    except Exception as err:  # noqa: BLE001  whatever it raises is the answer
        found[name] = f"{type(err).__name__}: {err}"[:300] or type(err).__name__
print(json.dumps(found))
