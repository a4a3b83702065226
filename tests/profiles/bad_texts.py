"""Texts that a generator may give for TP53, with the text that cleaning has to leave and the marks it has to get."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("TP53", "tumor protein p53", "p53", "LFS1")
GOOD = "TP53 encodes a tumor suppressor. It halts the cell cycle after DNA damage and is mutated in many cancers."


@dataclass(frozen=True)
class BadText:
    """A generated text and what has to become of it; `cleaned` is None where the text stays as it is, stripped."""

    name: str
    text: str
    marks: tuple[str, ...] = ()
    reason: str = "stop"
    cleaned: str | None = None


def _refusals(texts: dict[str, str]) -> list[BadText]:
    return [BadText(f"refusal: {name}", text, ("refusal",)) for name, text in texts.items()]


def _fine(texts: dict[str, str]) -> list[BadText]:
    return [BadText(f"no refusal: {name}", text) for name, text in texts.items()]


def _wrapped(texts: dict[str, str]) -> list[BadText]:
    return [BadText(f"wrapped: {name}", text, cleaned=GOOD) for name, text in texts.items()]


def _reasoning(texts: dict[str, str]) -> list[BadText]:
    return [BadText(f"looks like reasoning: {name}", text, ("reasoning",)) for name, text in texts.items()]


_HARMONY = "<|channel|>analysis<|message|>We need to describe TP53.<|end|><|start|>assistant"

BAD_TEXTS = [
    BadText("fine", GOOD),
    # Reasoning and other wrapping.
    *_wrapped(
        {
            "think": f"<think>Let me recall.</think>{GOOD}",
            "orphan closer": f"I recall that p53 is a guardian.\n</think>\n\n{GOOD}",
            "nested": f"<think>a<think>b</think>c</think>{GOOD}",
            "open at the end": f"{GOOD}\n<think>Is that all?",
            "brackets": f"[THINK]a[/THINK]{GOOD}",
            "triangles": f"◁think▷a◁/think▷{GOOD}",
            "scratchpad": f"<scratchpad>a</scratchpad>{GOOD}",
            "analysis": f"<analysis>a</analysis>{GOOD}",
            "Seed-OSS": f"<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect></seed:think>{GOOD}",
            "MiniMax M3": f"<mm:think>a</mm:think>\n{GOOD}",
            "LongCat, opened in the prompt": f"a\n</longcat_think>\n{GOOD}",
            "gpt-oss": f"{_HARMONY}<|channel|>final<|message|>{GOOD}<|return|>",
            "gpt-oss with a preamble": (
                f"{_HARMONY}<|channel|>commentary<|message|>I will now answer.<|end|><|start|>assistant"
                f"<|channel|>final <|constrain|>text<|message|>{GOOD}"
            ),
            "gpt-oss, final alone": f"<|channel|>final<|message|>{GOOD}<|return|>",
            "gpt-oss goes on thinking": (
                f"<|channel|>final<|message|>{GOOD}<|end|><|start|>assistant<|channel|>analysis<|message|>Done?"
            ),
            "gpt-oss, special tokens skipped": f"analysisWe need to describe TP53.assistantfinal{GOOD}",
            "gpt-oss, skipped, with a preamble": f"analysisHm.assistantcommentaryI will answer.assistantfinal{GOOD}",
            "Gemma 4": f"<|channel>thought\nThe gene is a suppressor.<channel|>{GOOD}<turn|>",
            "MedGemma": f"<unused94>thought\nThe user wants a profile.<unused95>{GOOD}",
            "Command A": f"<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>{GOOD}<|END_RESPONSE|>",
            "OpenThoughts": (
                "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n"
                f"<|begin_of_solution|>\n\n{GOOD}\n\n<|end_of_solution|>"
            ),
            "Hunyuan": f"<think>\na\n</think>\n<answer>\n{GOOD}\n</answer>",
            "Hunyuan, thought not closed": f"<think>\na\n<answer>\n{GOOD}\n</answer>",
            "ERNIE": f"a\n</think>\n\n<response>\n{GOOD}\n</response>\n",
            "Reflection": f"<thinking>a<reflection>b</reflection></thinking>\n<output>\n{GOOD}\n</output>",
            "Apertus": f"<|inner_prefix|>a<|inner_suffix|>{GOOD}",
            "Pangu": f"[unused16]a[unused17]{GOOD}",
            "s1": f"<|im_start|>think\na\n<|im_start|>answer\n{GOOD}<|im_end|>",
            "Granite 3.2": f"Here is my thought process: a\n\nHere is my response: {GOOD}",
            "HuatuoGPT-o1": f"## Thinking\n\na\n\n## Final Response\n\n{GOOD}",
            "ollama run": f"Thinking...\na\n...done thinking.\n\n{GOOD}",
            "end of text": f"{GOOD}<|endoftext|>",
            "start of turn": f"<|im_start|>assistant\n{GOOD}<|im_end|>",
            "byte order mark": f"\ufeff{GOOD}",
            "terminal colours": f"\x1b[31m{GOOD}\x1b[0m",
        }
    ),
    BadText("only reasoning", f"<think>{GOOD}</think>", ("empty",), cleaned=""),
    BadText("reasoning never closed", f"<think>{GOOD}", ("empty", "truncated"), "length", ""),
    *[
        BadText(f"never closed: {text[:20]!r}", text, ("empty",), cleaned="")
        for text in (
            f"{_HARMONY}<|channel|>analysis<|message|>{GOOD}",
            f"analysisWe need to say: {GOOD}",
            f"<unused94>thought\n{GOOD}",
            f"<|channel>thought\n{GOOD}",
            f"<|START_THINKING|>{GOOD}",
            f"[THINK]{GOOD}",
            f"Here is my thought process: {GOOD}",
        )
    ],
    BadText("lone surrogates", "TP53 \ud83d binds \udc00 DNA.", cleaned="TP53 \ufffd binds \ufffd DNA."),
    *_reasoning(
        {
            "the user asks": f"The user asks about TP53. I should write a profile.\n{GOOD}",
            "okay, so": f"Okay, so TP53 is a gene I have heard of. {GOOD}",
            "I need to": f"Okay, so I need to describe TP53. Hmm, what do I know? {GOOD}",
            "we need to": f"We need to produce a profile of TP53, under 2000 characters. {GOOD}",
            "heading": f"**Thinking:** TP53 is a suppressor. {GOOD}",
            "thinking process": f"Here's a thinking process:\n\n1. TP53. {GOOD}",
            "skipped MedGemma": f"thought\nTP53 is asked for. {GOOD}",
            "aside": f"{GOOD} Wait, that is TP63. The user wants facts on p53.",
            "unknown tag": f"<antThinking>a</antThinking> {GOOD}",
            "unknown special token": f"<|inner_monologue_on|>a<|inner_monologue_off|> {GOOD}",
            "Chinese": f"好的，用户问的是TP53。{GOOD}",
        }
    ),
    *_fine(
        {
            "analysis": "Analysis of TP53 in 500 tumors shows loss of function.",
            "thought": "TP53 was thought to be an oncogene; the finding that it is not changed the field.",
            "let me know": f"{GOOD} Let me know if you need more on TP53.",
            "sure": f"Sure! Here is a profile of TP53. {GOOD}",
            "less than": "TP53 loss raises risk (p<0.01) and reasoning impairment [12] in mice; 3 < 5 > 2.",
            "final": "Finally, TP53 is lost. The final exon binds DNA.",
        }
    ),
    # Nothing.
    BadText("empty", "", ("empty",)),
    BadText("white space", " \n\t\r\n\u00a0\u2003", ("empty",)),
    BadText("symbols", "🧬🧬🧬", ("empty", "off-topic")),
    BadText("nothing but the name", "TP53", ("empty",)),
    BadText("not available", "N/A", ("off-topic",)),
    # Cut.
    BadText("truncated", GOOD[:60], ("truncated",), "length"),
    *[
        BadText(f"ending: {reason}", f"{GOOD} ({i})", ("unknown-finish",), reason)
        for i, reason in enumerate(("unknown", "tool_calls", "repetition", "other"))
    ],
    BadText("filtered", GOOD, ("refusal",), "content_filter"),
    # Refusals.
    *_refusals(
        {
            "sorry": "I'm sorry, but I can't help with TP53.",
            "cannot provide": "I cannot provide a description of TP53.",
            "afraid": "I'm afraid I can't provide details about TP53.",
            "as an AI": "As an AI, I lack knowledge of TP53.",
            "as a language model": "As a large language model, I cannot verify facts on TP53.",
            "do not know": "I do not know what TP53 is.",
            "I have none": "I have no information on TP53.",
            "passive": "No information is available about the gene TP53.",
            "not possible": "It is not possible for me to provide details on TP53.",
            "asks back": "Could you clarify what you would like to know about TP53?",
            "just a model": "I'm just a language model and lack facts on TP53.",
        }
    ),
    *_fine(
        {
            "cells cannot": "TP53 is lost in many tumors. Cells without it cannot stop dividing.",
            "unable to bind": "TP53 mutants are unable to bind DNA; the protein is not able to fold.",
            "class I": "TP53 raises MHC class I. MHC class I is unable to present peptides when its chaperone is lost.",
            "AIRE": "As an AIRE target in the thymus, TP53 is expressed early.",
            "late": f"{GOOD} {GOOD.lower()} It binds DNA as a tetramer. I cannot provide more.",
            "type I cannot": "Topoisomerase I cannot find its site until TP53 recruits it.",
            "AI-driven": "As an AI-driven screen shows, TP53 is a hub of stress responses.",
        }
    ),
    # Loops.
    BadText("loop: word", "TP53 " + "gene " * 30, ("looping",)),
    BadText("loop: phrase", "TP53 is " + "a regulator of the cell cycle and " * 10, ("looping",)),
    BadText("loop: sentence", f"{GOOD} It binds DNA. It binds DNA. It binds DNA.", ("looping",)),
    BadText("loop: line", "TP53 is a gene.\n" + "- binds the DNA\n" * 3, ("looping",)),
    BadText("loop: letter", GOOD + " " + "a" * 40, ("looping",)),
    BadText("loop: cut short", "TP53 " + "regulates cells and " * 12 + "regu", ("truncated", "looping"), "length"),
    BadText("loop: counting", "TP53, " + ", ".join(f"exon {i} of" for i in range(60)), ("looping",)),
    BadText("no loop: list", "TP53:\n- role: repair\n- role: arrest\n- role: death\n- place: nucleus"),
    BadText("no loop: rule", f"{GOOD}\n{'-' * 60}"),
    BadText("no loop: motif", "TP53 binds RRRCWWGYYY half-sites such as GGGCATGTCC, and (CA)n repeats."),
    # Echo, language, another gene.
    BadText("echo and answer", f"Tell me about the gene TP53.\n{GOOD}"),
    BadText("echo", "Tell me about the gene TP53.", ("off-topic",)),
    BadText(
        "echo of the system's words",
        "You are an assistant with deep knowledge of biology. Answer from what you know, in plain prose. TP53",
        ("off-topic",),
    ),
    BadText("language: Spanish", "TP53 es un gen que codifica una proteína.", ("language",)),
    BadText("language: Chinese", "TP53是一个肿瘤抑制基因,它编码的蛋白质调节细胞周期。", ("language",)),
    *[
        BadText(f"language: {name}", text, ("language",))
        for name, text in {
            "French": "TP53 est un gène qui code une protéine et qui arrête le cycle des cellules.",
            "German": "TP53 ist ein Gen, das ein Protein kodiert und die Teilung der Zelle anhält.",
            "Russian": "TP53 — ген, кодирующий белок, который останавливает клеточный цикл.",
            "Japanese": "TP53はがん抑制遺伝子であり、細胞周期を停止させるタンパク質をコードする。",
            "English, then Chinese": "TP53 encodes p53. 它编码的蛋白质调节细胞周期,并在DNA损伤后使细胞停止分裂或凋亡。",
        }.items()
    ],
    *[
        BadText(f"refusal in another language: {name}", text, marks)
        for name, text, marks in (
            ("Spanish", "Lo siento, no puedo dar datos de TP53.", ("refusal",)),
            ("German", "Es tut mir leid, zu TP53 ist mir nichts bekannt.", ("refusal",)),
            ("Russian", "Извините, я не могу рассказать о TP53.", ("refusal", "language")),
            ("Chinese", "抱歉，我无法提供关于TP53的信息。", ("refusal", "language")),
            ("Japanese", "申し訳ありませんが、TP53についてはお答えできません。", ("refusal", "language")),
        )
    ],
    *_fine(
        {
            "Greek letters": "TP53 binds NF-κB and β-catenin, and α-, β- and γ-isoforms are known.",
            "foreign names": "TP53 was studied by des Marais, von der Heyden and de la Cruz in the lab.",
            "Latin words": "TP53 acts in vitro and in vivo, as it does de novo in the embryo.",
        }
    ),
    BadText("another gene", "BRCA1 repairs DNA and binds BARD1.", ("off-topic",)),
    BadText("a longer symbol", "TP53BP1 binds chromatin; so does TP53I3.", ("off-topic",)),
    BadText("no name", "The gene encodes a kinase of the plasma membrane.", ("off-topic",)),
    BadText(
        "another gene dominant",
        "BRCA1 repairs DNA. BRCA1 binds BARD1. BRCA1 is mutated in breast cancer. TP53 is another gene.",
        ("off-topic",),
    ),
    BadText("other spellings", "Tp53-null mice, the TP53_HUMAN entry, TP53's product and (TP53)."),
    BadText("alias only", "The protein p53 guards the genome."),
]
