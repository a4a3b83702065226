"""Public files that tasks read: where each comes from, its checksum, its licence as stated, and who reads it.

Checksums are of the uncompressed content, so that a gzipped copy of a file is the same file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFile:
    """A public file, known by its content.

    Attributes
    ----------
    name
        What it is asked for by.
    path
        Where it lies under a data folder, relative, without ``.gz``.
    url
        Where exactly this content can be downloaded; ``""`` when it was derived from a source, and then the
        description says what was done to which.
    sha256
        Of the uncompressed content, 64 hexadecimal digits.
    licence, citation
        As the owners state them, and what was not verified.
    description
        What is in it. The first sentence stands alone.
    parser
        ``"module:function"`` that turns its path into plain data.
    accepted
        Checksums of other contents that are as good.
    """

    name: str
    path: str
    url: str
    sha256: str
    licence: str
    citation: str
    description: str
    parser: str
    accepted: tuple[str, ...] = ()

    @property
    def checksums(self) -> tuple[str, ...]:
        """Return every checksum that is fine."""
        return (self.sha256, *self.accepted)


_PARSERS = "bftembed.datasets.parsers"
_RAW = "https://raw.githubusercontent.com"
_GENEFORMER = (
    "https://huggingface.co/datasets/ctheodoris/Genecorpus-30M/resolve/eab40d350be70ca6dff2d42555bacc44c8a71cc7"
    "/example_input_files/gene_classification"
)
_CX0 = f"{_RAW}/cx0/geneformer-finetune/1212f4a12d979a6de243f0c9db91e4a751e347fe/dosage_sens_tf"
_GENEAGENT = "ncbi-nlp/GeneAgent/88fd1adb40dce9545bde5b904ef3a628c09d747c"
_GENE2VEC = f"{_RAW}/jingcheng-du/Gene2vec/6236e0b21fbc367bf8ff5695ed0cc1443861bd1e/predictionData"
_HURI = "CCSB-DFCI/HuRI_paper at 16c57919f4e0c3d1a78edf90c105ed42d3022f8f"

_REBUILT = "The checksum is one that others published; a file rebuilt from the published lists has it."
_THEODORIS = "Theodoris et al. 2023, Nature 618, 616-624 (Geneformer)"
_NI = "Ni et al. 2019, Front. Genet. 10, 1208"
_LUCK = "Luck et al. 2020, Nature 580, 402-408 (HuRI)"
_PUBLIC_DOMAIN = "US Government work, public domain notice"


def _geneformer(name: str, file: str, sha256: str, citation: str, description: str, parser: str) -> DataFile:
    path = f"gene_labels/{file.rpartition('/')[2]}"
    licence = "not verified; see the card of ctheodoris/Genecorpus-30M on Hugging Face"
    text = f"{description} {_REBUILT}"
    return DataFile(name, path, f"{_GENEFORMER}/{file}", sha256, licence, citation, text, f"{_PARSERS}:{parser}")


def _gene2vec(part: str, kind: str, sha256: str, rows: str) -> DataFile:
    what = {
        "text": f"{rows} gene pairs, two symbols a line, of Gene2vec's {part} split.",
        "label": f"0 or 1 for each of the {rows} pairs of gene2vec-{part}-text, in order.",
    }[kind]
    return DataFile(
        f"gene2vec-{part}-{kind}",
        f"pairs/gene2vec_{part}_{kind}.txt",
        f"{_GENE2VEC}/{part}_{kind}.txt",
        sha256,
        "MIT",
        "Du et al. 2019, BMC Genomics 20 (Suppl 1), 82 (Gene2vec)",
        what,
        f"{_PARSERS}:{'parse_pairs' if kind == 'text' else 'parse_pair_labels'}",
    )


_ALL = (
    _geneformer(
        "geneformer-dosage",
        "dosage_sensitive_tfs/dosage_sens_tf_labels.csv",
        "6a3db1b9bd2c4bd1ddf9ed09152722f05cb1def24624d4badf7e559d9a4ba46d",
        f"{_THEODORIS}; {_NI}",
        "Dosage-sensitive and -insensitive transcription factors as Geneformer has them, Ensembl ids.",
        "parse_dosage_canonical",
    ),
    _geneformer(
        "geneformer-bivalent",
        "bivalent_promoters/bivalent_gene_labels.txt",
        "c8c2c7a4b71317d70b00a3f0bcb41727912521076f0644b5c5855a28de930266",
        _THEODORIS,
        "Genes with bivalent promoters, one Ensembl id a line.",
        "parse_id_list",
    ),
    _geneformer(
        "geneformer-lys4-only",
        "bivalent_promoters/lys4_only_gene_labels.txt",
        "8f65a830ce094f1c84d05273e390347bf69b90da9503d23e2e67362737022343",
        _THEODORIS,
        "Genes whose promoter carries the Lys4 mark alone, one Ensembl id a line.",
        "parse_id_list",
    ),
    _geneformer(
        "geneformer-no-methylation",
        "bivalent_promoters/no_methylation_gene_labels.txt",
        "c71a82b53e07539cbed78988cd8b78daa038661f15a98d46bc6b6c1a79433fe9",
        _THEODORIS,
        "Genes whose promoter carries neither mark, one Ensembl id a line.",
        "parse_id_list",
    ),
    DataFile(
        "tf-range",
        "gene_labels/41467_2020_16106_MOESM4_ESM.csv",
        "https://static-content.springer.com/esm/art%3A10.1038%2Fs41467-020-16106-x/MediaObjects/"
        "41467_2020_16106_MOESM4_ESM.csv",
        "d0f095bbdbe2e07b0e8c654831a531a8f40b4f4d63b74ad53b81efb583cda6ae",
        "not verified; supplement of an article that is free to access",
        "Chen et al. 2020, Nat. Commun. 11, 2472",
        f"Long-range and short-range transcription factors, by symbol. {_REBUILT}",
        f"{_PARSERS}:parse_tf_range",
    ),
    DataFile(
        "dosage-cx0",
        "gene_labels/dosage_sens_tf_labels_cx0.csv",
        f"{_CX0}/dosage_sens_tf_labels.csv",
        "81fd31256fb349c64fdab8706028f61e23f9d35f2b52dae57921bebd0e32963d",
        "none stated",
        f"{_NI}; file of cx0/geneformer-finetune",
        "122 dosage-sensitive and 368 -insensitive transcription factors, Ensembl ids. A public copy of the lists of "
        "geneformer-dosage in another form, not byte-identical; it stands in where that file is not at hand.",
        f"{_PARSERS}:parse_dosage_cx0",
    ),
    DataFile(
        "gene-biotypes",
        "gene_labels/gene_info_table_biotypes.csv",
        f"{_CX0}/gene_info_table.csv",
        "19c0436da6f072fcd05a79c4ddbaa1f5ad7370aadc7595bca64f56831af8e91e",
        "none stated",
        "Ensembl release 109; file of cx0/geneformer-finetune",
        "Ensembl id, name and biotype of 69,299 human genes. 22,493 have no name.",
        f"{_PARSERS}:parse_biotypes",
    ),
    DataFile(
        "kegg",
        "gene_labels/ylab_KEGG_CPDB.gmt",
        f"{_RAW}/ylaboratory/gene-embedding-benchmarks/d1320026a2a4ee033d49517f91e2d1c2ccc8df1e/data/gmt/KEGG_CPDB.gmt",
        "f5e1a0a640c1c2c559eafa55567fd6119a683628ba8f6afc2a178f3568042eb3",
        "BSD-3-Clause (repository; the licence of the KEGG data was not checked)",
        "KEGG pathways by ConsensusPathDB; file of ylaboratory/gene-embedding-benchmarks",
        "333 KEGG pathways of 1 to 531 genes, Entrez ids.",
        f"{_PARSERS}:parse_gmt",
    ),
    DataFile(
        "transcription-factors",
        "gene_labels/human_transcription_factors_scPEFT.txt",
        f"{_RAW}/coffee19850519/scPEFT/9d1739bd205802cc4d6849d84c29a6dfee44982e/tutorial_peft/"
        "human_transcription_factors.txt",
        "a94c13384a42a913e73bfb9b9bfe8f143a4b7633fcbaeae5c61bc4e1f078e34c",
        "MIT (repository)",
        "file of coffee19850519/scPEFT, which names no source",
        "1,639 symbols of human transcription factors, one a line.",
        f"{_PARSERS}:parse_id_list",
    ),
    _gene2vec("train", "text", "5d7808130c0b337c15b927545cbff9552b754610a29c89dfe2a6c54c91299e96", "263,016"),
    _gene2vec("train", "label", "d8f5631b3e4ac8eb60bca80ef5f73a9d521c017d2bafee3a6fc65659789b3434", "263,016"),
    _gene2vec("valid", "text", "aa34b4e3894d5339100b9d255fbc6325f96327f4e2a61f634d11ce2154614c51", "5,568"),
    _gene2vec("valid", "label", "df038f9ca8937ec0c501058c4a6ec4624bbcc73824c79003058652c844acbb6d", "5,568"),
    _gene2vec("test", "text", "c03f4b276bb9ddbb60b3e82eba32391578c95b4c353479a369e16066a04d5360", "21,448"),
    _gene2vec("test", "label", "1e9ffeba8c927e3b12565c37ff5bc8fd9300d6500f67152687eeee198c7ccdb1", "21,448"),
    DataFile(
        "huri",
        "pairs/huri_table11_union.tsv",
        "",
        "58b4aa9163c76604e1f8c4384787e10e31e1978633e064080df369c8f7f7b4fe",
        "none in the repository; that of the interactome data was not verified",
        _LUCK,
        "52,569 pairs of proteins that bind each other in HuRI, Ensembl gene ids, among 64,006 of its union with "
        f"earlier screens. Supplementary Table 11 of {_HURI}, saved again as a plain TSV.",
        f"{_PARSERS}:parse_huri",
    ),
    DataFile(
        "huri-space",
        "pairs/huri_table1_space3_genes.tsv",
        "",
        "6cca3d221ca1175c31359a132023acd9aac71b1c2c5af26eb066ce179b318234",
        "none in the repository; that of the interactome data was not verified",
        _LUCK,
        "17,408 genes that HuRI searched (its space III), Ensembl ids, among 19,818 protein-coding ones. "
        f"Supplementary Table 1 of {_HURI}, saved again as a plain TSV.",
        f"{_PARSERS}:parse_huri_space",
    ),
    DataFile(
        "refseq-summaries",
        "gene_text/refseq_gene_summary_human.tsv",
        "",
        "58269c4cb4d0472b4f4129044a56653492b1d33a69afb7fccd07088cab39c8ba",
        "MIT (package GeneSummary); the text is NCBI RefSeq's, a US Government work",
        "NCBI RefSeq, by jokergoo/GeneSummary",
        "RefSeq summaries of 15,085 human genes. From inst/extdata/refseq_gene_summary.rds of jokergoo/GeneSummary at "
        "a86967afaa3d88a1e37731ce92f43690c0332a33: the human rows, one for each Entrez id, with HGNC's symbol.",
        f"{_PARSERS}:parse_summaries",
    ),
    DataFile(
        "go-terms",
        "geneagent/GO_terms.csv",
        f"{_RAW}/{_GENEAGENT}/Datasets/Gene%20ontology/GO_terms.csv",
        "5320dd07763641a602a0362676c719d7ef087a6054069871f002c7edb3aa6954",
        f"{_PUBLIC_DOMAIN} (repository); the gene sets derive from idekerlab (MIT) and talisman-paper",
        "Gene Ontology; file of ncbi-nlp/GeneAgent",
        "1,000 GO terms with their genes by symbol.",
        f"{_PARSERS}:parse_go_terms",
    ),
    DataFile(
        "geneagent-descriptions",
        "gene_text/geneagent_ontological.tsv",
        "",
        "11f8d97f436d1b31b1bc671e6fea44d66cab9c755ae394d0290ca09ad96e40d0",
        f"{_PUBLIC_DOMAIN} (repository)",
        "Alliance of Genome Resources; file of ncbi-nlp/GeneAgent",
        "Automatic descriptions of 4,037 genes out of their GO terms. From gene_ontological_synposis_spindoctor.txt of "
        f"{_GENEAGENT.replace('GeneAgent/', 'GeneAgent at ')}: one row for each gene.",
        f"{_PARSERS}:parse_descriptions",
    ),
)

#: Every file, by name.
FILES: dict[str, DataFile] = {file.name: file for file in _ALL}
