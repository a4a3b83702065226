"""Gene-level benchmark tasks: properties of genes and of gene pairs."""
