"""Functional classes of genes, read off their HGNC names: a few families that a picture can colour."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bftembed.entities.genes import GeneIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER = "other"

#: HGNC's locus type → class, whatever the name.
_OF_LOCUS_TYPE = {
    "RNA, micro": "microRNA",
    "RNA, long non-coding": "lncRNA",
    "immunoglobulin gene": "HLA or antigen receptor",
    "T cell receptor gene": "HLA or antigen receptor",
}

#: What G protein-coupled receptors are called that do not say so: by ligand, before the word "receptor".
_LIGANDS = (
    "taste [12]|vomeronasal 1|trace amine associated|5-hydroxytryptamine|frizzled class|smoothened, frizzled class"
    "|adenosine|dopamine|histamine|galanin|melanocortin|opioid|prokineticin|somatostatin|tachykinin|melatonin"
    "|endothelin|bradykinin|hypocretin|neurotensin|formyl peptide|free fatty acid|hydroxycarboxylic acid"
    "|lysophosphatidic acid|sphingosine-1-phosphate|cannabinoid|cholecystokinin|apelin|oxytocin|arginine vasopressin"
    "|neuromedin|neuropeptide|relaxin family peptide|cysteinyl leukotriene|leukotriene|prostaglandin|calcitonin"
    "|angiotensin|parathyroid hormone|glucagon|glucagon like peptide|vasoactive intestinal peptide"
    "|(?:atypical|C-C motif|C-X-C motif|C-X3-C motif|X-C motif) chemokine"
)
_GPCR = (
    r"\bG protein-coupled (?:bile acid |estrogen )?receptor\b"
    # One short word may stand between: adenosine A2a receptor, neuropeptide Y receptor Y1.
    rf"|^(?:{_LIGANDS})(?: \w{{1,3}})? receptor\b"
    r"|^cholinergic receptor muscarinic\b|^glutamate metabotropic receptor\b|^adrenoceptor\b|^rhodopsin$|^opsin "
)

#: Class → a pattern that its members' names have, and one that they must not have. The first class that fits counts.
_OF_NAME = (
    ("olfactory receptor", r"^olfactory receptor\b", ""),
    (
        "G protein-coupled receptor",
        _GPCR,
        r"receptor (?:3[A-E]|kinase|accessory|associated|interacting|inhibitor|early)\b",
    ),
    ("solute carrier", r"^solute carrier\b", ""),
    (
        "HLA or antigen receptor",
        r"^major histocompatibility complex\b|^immunoglobulin (?:heavy|kappa|lambda)\b|^T cell receptor\b",
        r"related",
    ),
    (
        "kinase",
        r"\bkinases?\b",
        r"\b(?:kinase|kinases)\b.*\b(?:inhibitor|inhibitory|associated|interacting|substrate|binding|ligand|activator"
        r"|adaptor|anchor\w*|regulatory|regulator|phosphatase|domain containing|accessory|scaffold|suppressor|homology"
        r"|complex subunit|insert)|receptor for activated",
    ),
    ("ribosomal protein", r"^(?:mitochondrial )?ribosomal protein\b", ""),
    ("ubiquitin ligase", r"\bubiquitin(?: protein)? ligase\b", r"ligase (?:complex|binding)|adaptor subunit"),
    ("zinc finger", r"^zinc fingers?\b", ""),
    ("collagen", r"^collagen type\b", ""),
    ("keratin", r"^keratins?\b", ""),
    (
        "ion channel",
        r"\bchannel\b|^cholinergic receptor nicotinic\b|^glutamate ionotropic receptor\b"
        r"|^gamma-aminobutyric acid type A receptor\b|^glycine receptor\b|^5-hydroxytryptamine receptor 3",
        r"tetramerization|interacting|auxiliary|regulatory|regulator|associated|channel like|modulator|flower",
    ),
)
_PATTERNS = tuple((label, re.compile(yes, re.I), re.compile(no, re.I) if no else None) for label, yes, no in _OF_NAME)


def _functional_class(name: str, locus_type: str) -> str:
    if locus_type in _OF_LOCUS_TYPE:
        return _OF_LOCUS_TYPE[locus_type]
    if locus_type != "gene with protein product":
        return OTHER
    for label, yes, no in _PATTERNS:
        if yes.search(name) and not (no and no.search(name)):
            return label
    return OTHER


def functional_classes(symbols: Sequence[str]) -> list[str]:
    """Return the functional class of each gene that its full name in the packaged HGNC table states.

    The locus type decides for microRNA, lncRNA and the immunoglobulin and T cell receptor genes; other genes without a
    protein are `OTHER`. The name of a gene with a protein begins with the family (``"solute carrier family 2 member
    1"``), ends in what it is (``"cyclin dependent kinase 4"``), or is one of a list of receptors; names of partners
    (``"kinase inhibitor"``) do not count. The first class that fits counts.

    Parameters
    ----------
    symbols
        Approved symbols, or any names that lead to exactly one (see `bftembed.entities.genes.GeneIndex`).

    Returns
    -------
    list of str
        As many as `symbols`; `OTHER` for a name that leads to no gene.
    """
    index = GeneIndex.default()
    classes = []
    for found in index.resolve(list(symbols)):
        record = index.get(found.symbol) if found.symbol else None
        classes.append(_functional_class(record.name, record.locus_type) if record else OTHER)
    return classes
