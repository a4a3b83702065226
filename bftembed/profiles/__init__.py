"""Profiles of genes and proteins: prompts, generation, screening, selection, reports."""
