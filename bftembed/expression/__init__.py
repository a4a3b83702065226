"""The one way to open expression data: a matrix in row blocks, gene names, cell names; validation and normalization."""
