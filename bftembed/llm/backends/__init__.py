"""Backends of the language-model seam."""
