# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The main job on 40 genes
#
# From a list of genes to a scored cell embedding, with models and cells that come in packages. The language model is small
# (135 million parameters): it proves the machinery, not the quality of its profiles.

# %%
import tempfile
from pathlib import Path

import numpy as np
import scanpy

import bftembed

runs = Path(tempfile.mkdtemp())
adata = scanpy.datasets.pbmc68k_reduced()
adata

# %% [markdown]
# ## Genes
#
# The 40 genes with the highest mean expression. `.raw` holds log-normalised expression, `X` is scaled. Every name gets an
# answer: used, mapped, ambiguous or missing.

# %%
means = np.asarray(adata.raw.X.mean(axis=0)).ravel()
genes = [str(name) for name in adata.raw.var_names[np.argsort(-means)[:40]]]
for resolution in bftembed.GeneIndex.default().resolve([*genes[:3], "CD20", "ENSG00000141510.18", "1-Mar"]):
    print(resolution.name, resolution.status, resolution.symbol, resolution.via, resolution.note)

# %% [markdown]
# ## Profiles
#
# The store keeps every profile with its marks. Running the cell again writes nothing: a profile has an identity, and the
# same identity is never generated twice.

# %%
report = bftembed.generate_profiles(
    genes, generator="builtin:smollm2-135m-instruct,max_new_tokens=64", out=runs / "profiles"
)
again = bftembed.generate_profiles(
    genes, generator="builtin:smollm2-135m-instruct,max_new_tokens=64", out=runs / "profiles"
)
assert again.written == 0
report

# %%
from bftembed.llm.store import AnswerStore

with AnswerStore.open(runs / "profiles") as store:
    for profile in store.answers()[:3]:
        print(f"{profile.entity} {list(profile.marks)}\n{profile.text}\n")

# %% [markdown]
# ## Gene embeddings
#
# All texts are cut at 64 tokens, so the mark `truncated` has to be allowed; other marked profiles stay out.

# %%
embeddings = bftembed.embed_genes(runs / "profiles", encoder="builtin:all-minilm-l6-v2", allow_marks=["truncated"])
embeddings.save(runs / "genes.safetensors")
print(embeddings)
embeddings.provenance["counts"]

# %% [markdown]
# ## Cell embeddings
#
# The expression-weighted mean of the genes' embeddings, each cell scaled to length 1. Random gene vectors, treated the same
# way, are the floor.

# %%
baseline = bftembed.embed_genes({gene: gene for gene in embeddings.ids}, encoder="random:dim=384,seed=0")
bftembed.embed_cells(adata, embeddings, key="X_bft", use_raw=True, empty_cells="nan")
bftembed.embed_cells(adata, baseline, key="X_random", use_raw=True, empty_cells="nan")
print(adata.uns["bftembed"]["X_bft"]["reason"])
adata.obsm["X_bft"].shape

# %% [markdown]
# ## How good are they?
#
# K-means clusterings over five seeds against the labels, and the silhouette of the labels. Mind the random baseline.

# %%
results = bftembed.bench.clustering(
    adata, ["X_bft", "X_random", "X_pca"], label="bulk_labels", protocol="standard", out=runs / "r.parquet"
)
from bftembed.report.table import text
from bftembed.tasks.base import tables_of

print(text(tables_of(results)["Clustering"], width=100))

# %% [markdown]
# ## A report
#
# One HTML file that needs nothing else.

# %%
from bftembed.tasks.base import report

page = report(runs / "r.parquet", runs / "report.html")
assert page.stat().st_size > 10_000
