"""Gene-level benchmark tasks: properties of genes and of gene pairs."""

from __future__ import annotations

from bftembed.tasks.genes.benchmark import genes
from bftembed.tasks.genes.builtin import TASKS, get_task, list_tasks
from bftembed.tasks.genes.definition import GeneTask, load_task, make_task
from bftembed.tasks.genes.report import tables

__all__ = ["TASKS", "GeneTask", "genes", "get_task", "list_tasks", "load_task", "make_task", "tables"]
