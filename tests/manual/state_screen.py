"""First part of state_check.sh: a simulated screen, one h5ad per cell type, and gene embeddings, in a folder.

Three perturbations are labelled as screens label them: by an Ensembl identifier, in lower case, by an alias.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bftembed.entities.genes import GeneIndex
from bftembed.testing import simulate_perturbations

folder = Path(sys.argv[1])
adata, genes = simulate_perturbations(
    n_perturbations=20, n_genes=300, cells_per_perturbation=16, cell_types=("k562", "rpe1", "jurkat"), dim=24, seed=8
)
index = GeneIndex.default()
targets = [label for label in adata.obs["gene"].cat.categories if label != "non-targeting"]
spelled = {targets[0]: index.get(targets[0]).ensembl_gene_id, targets[1]: targets[1].lower()}
# An alias that means this gene and no other.
spelled |= next(
    {label: alias}
    for label in targets[2:]
    for alias in index.get(label).alias_symbols
    if index.resolve([alias])[0].entity == label
)
adata.obs["gene"] = adata.obs["gene"].cat.rename_categories(spelled)
(folder / "screen").mkdir()
for cell_type in adata.obs["cell_type"].cat.categories:
    adata[adata.obs["cell_type"] == cell_type].copy().write_h5ad(folder / "screen" / f"{cell_type}.h5ad")
genes.save(folder / "genes.safetensors")
print(f"simulated: {adata.n_obs} cells, {adata.n_vars} genes, {len(targets)} perturbations; relabelled: {spelled}")
