"""Cell embeddings: aggregation of gene embeddings by expression, sentences of ranked genes, output."""
