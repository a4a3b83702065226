"""Part of state_check.sh that STATE's own environment runs: what STATE loaded and trained; JSON on stdout.

Arguments: run folders of `state tx train`. Each is opened as `state tx predict` opens it.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from cell_load.data_modules import PerturbationDataModule

PACKAGES = ("arc-state", "cell-load", "cell-eval", "pdex", "torch", "lightning", "anndata", "numpy", "pandas")


class Kept(logging.Handler):
    """The messages of cell-load."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(f"{record.levelname}: {record.getMessage()}".strip())


def cells_of(loader):
    """Cell type → perturbation → names of the cells that one epoch of a loader yields."""
    found = {}
    for batch in loader:
        for where in zip(batch["cell_type"], batch["pert_name"], batch["pert_cell_barcode"], strict=True):
            cell_type, label, cell = map(str, where)
            found.setdefault(cell_type, {}).setdefault(label, set()).add(cell)
    return {t: {label: sorted(cells) for label, cells in labels.items()} for t, labels in found.items()}


def without_gradient(run, features):
    """Perturbations whose input to the encoder never had a gradient: Adam's second moment is 0 in their column."""
    checkpoint = torch.load(run / "checkpoints" / "final.ckpt", weights_only=False, map_location="cpu")
    weight = checkpoint["state_dict"]["pert_encoder.0.weight"]
    states = checkpoint["optimizer_states"][0]["state"].values()
    (moment,) = [one["exp_avg_sq"] for one in states if one["exp_avg_sq"].shape == weight.shape]
    return sorted(label for label, x in features.items() if (moment[:, int(x.argmax())] == 0).all())


def told(run):
    log = Kept()
    logger = logging.getLogger("cell_load")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        module = PerturbationDataModule.load_state(str(run / "data_module.torch"))
        module.setup()
    finally:
        logger.removeHandler(log)
    # Its keys are np.str_ with one-hot features: our own file, so read all the same.
    features = {str(k): x for k, x in torch.load(run / "pert_onehot_map.pt", weights_only=False).items()}
    one_hot = module.perturbation_features_file is None
    with (run / "var_dims.pkl").open("rb") as file:
        dims = pickle.load(file)
    return {
        "splits": {
            "train": cells_of(module.train_dataloader()),
            "val": cells_of(module.val_dataloader()),
            "test": cells_of(module.test_dataloader()),
        },
        "one_hot": one_hot,
        "pert_dim": int(dims["pert_dim"]),
        "input_dim": int(dims["input_dim"]),
        "gene_names": [str(name) for name in dims["gene_names"]],
        "zero_features": sorted(label for label, x in features.items() if not x.any()),
        "without_gradient": without_gradient(run, features) if one_hot else None,
        "log": log.messages,
    }


if __name__ == "__main__":
    runs = [Path(one) for one in sys.argv[1:]]
    versions = {name: version(name) for name in PACKAGES}
    print(json.dumps({"versions": versions, "runs": {f"{run.parents[1].name}/{run.name}": told(run) for run in runs}}))
