"""Verdict for verdict as lm-eval 0.4.13's `ifeval` task, on made-up and on given responses.

Runs where lm-eval is installed (`pip install "lm-eval[ifeval]==0.4.13"`) and

    ES_ALIGN_IFEVAL=.../input_data.jsonl              IFEval's 541 prompts
    ES_ALIGN_IFEVAL_RESPONSES=.../responses.jsonl     optional: {"key", "response"} a line

are set. An environment without the rest of es-align's packages runs it with `pytest --noconftest`.
lm-eval's random letters (keys 1122 and 1129) are left out, and its langdetect is given our seed.
"""

import json
import os
import random
from pathlib import Path

import langdetect
import pytest

from es_align.bench.ifeval_responses import make_response, mutate, read_ifeval_prompts
from rewards.ifeval.detection import SEED, detect_language
from rewards.ifeval.sentences import load_parameters, split_sentences
from rewards.ifeval.tokens import num_capital_words
from rewards.ifeval.verdicts import accuracies, judge

RANDOM_KEYS = (1122, 1129)
NUM_MUTATED = 2000
METRICS = (
    "prompt_level_strict_acc",
    "inst_level_strict_acc",
    "prompt_level_loose_acc",
    "inst_level_loose_acc",
)


@pytest.fixture(scope="module")
def prompts():
    path = os.environ.get("ES_ALIGN_IFEVAL")
    if not path:
        pytest.skip("ES_ALIGN_IFEVAL is not set to IFEval's input_data.jsonl")
    return [row for row in read_ifeval_prompts(Path(path)) if row.key not in RANDOM_KEYS]


@pytest.fixture(scope="module")
def nltk_data(tmp_path_factory):
    """NLTK's English parameters as the files it would otherwise fetch."""
    nltk = pytest.importorskip("nltk", reason="lm-eval is not installed, nor its nltk")
    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    known = load_parameters()
    for name, lines in {
        "collocations.tab": ["\t".join(pair) for pair in known.collocations],
        "sent_starters.txt": known.starters,
        "abbrev_types.txt": known.abbreviations,
        "ortho_context.tab": [f"{word}\t{bits}" for word, bits in known.seen.items()],
    }.items():
        (folder / name).write_text("\n".join(sorted(lines)), encoding="utf-8")
    nltk.data.path.insert(0, str(root))
    yield nltk
    nltk.data.path.remove(str(root))


@pytest.fixture(scope="module")
def seeded():
    langdetect.DetectorFactory.seed = SEED
    yield langdetect
    langdetect.DetectorFactory.seed = None


@pytest.fixture(scope="module")
def lm_eval(nltk_data, seeded):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    return pytest.importorskip("lm_eval.tasks.ifeval.utils", reason="lm-eval[ifeval] is missing")


def compare(lm_eval, pairs):
    """Assert the same verdicts for every (prompt, response), and the same four figures."""
    ours, theirs = [], []
    for prompt, response in pairs:
        row = {
            "key": prompt.key,
            "prompt": prompt.prompt,
            "instruction_id_list": list(prompt.instruction_ids),
            "kwargs": [dict(kwargs) for kwargs in prompt.kwargs],
        }
        expected = lm_eval.process_results(row, [response])
        found = judge(response, prompt.instruction_ids, prompt.kwargs)
        wanted = tuple(tuple(expected[name]) for name in (METRICS[1], METRICS[3]))
        assert tuple(found) == wanted, (prompt.key, prompt.instruction_ids, response)
        assert (all(found.strict), all(found.loose)) == (
            expected[METRICS[0]],
            expected[METRICS[2]],
        )
        ours.append(found)
        theirs.append(expected)
    figures = [
        sum(row[METRICS[0]] for row in theirs) / len(theirs),
        lm_eval.agg_inst_level_acc([row[METRICS[1]] for row in theirs]),
        sum(row[METRICS[2]] for row in theirs) / len(theirs),
        lm_eval.agg_inst_level_acc([row[METRICS[3]] for row in theirs]),
    ]
    assert list(accuracies(ours)) == figures
    num_verdicts = 2 * sum(len(row.strict) for row in ours)
    numbers = ", ".join(f"{figure:.4f}" for figure in figures)
    print(f"{len(pairs)} responses, {num_verdicts} verdicts agree: {numbers}")
    return accuracies(ours)


def test_made_up_responses(lm_eval, prompts):
    generator = random.Random(0)
    figures = compare(lm_eval, [(row, make_response(row, generator)) for row in prompts])
    # Both verdicts are common, or the comparison would say little.
    assert 0.3 < figures.instruction_strict < figures.instruction_loose < 0.9


@pytest.mark.slow
def test_mutated_responses(lm_eval, prompts):
    generator = random.Random(1)
    rows = [prompts[index % len(prompts)] for index in range(NUM_MUTATED)]
    compare(lm_eval, [(row, mutate(make_response(row, generator), generator)) for row in rows])


@pytest.mark.slow
def test_given_responses_and_mutated_ones(lm_eval, prompts):
    path = os.environ.get("ES_ALIGN_IFEVAL_RESPONSES")
    if not path:
        pytest.skip("ES_ALIGN_IFEVAL_RESPONSES is not set to a file of responses")
    lines = Path(path).read_text("utf-8").split("\n")
    by_key = {prompt.key: prompt for prompt in prompts}
    rows = [json.loads(line) for line in lines if line.strip()]
    pairs = [(by_key[row["key"]], row["response"]) for row in rows if row["key"] in by_key]
    assert pairs
    compare(lm_eval, pairs)
    generator = random.Random(3)
    chosen = [pairs[index % len(pairs)] for index in range(NUM_MUTATED)]
    compare(lm_eval, [(row, mutate(response, generator)) for row, response in chosen])


# Abbreviations, initials, numbers, clitics, joined words, quotes: what the two splitters turn on.
TOKENS = """Dr. a.m. U.S. No. e.g. J. 12. 3.5 ... ?! -- Inc. I the The However bread BREAD
IT'S CAN'T 'TIS CANNOT CANNOT'TIS X'S' ' " ( ) « » ` `` '' , : ; * GONNA D'YE MORE'N A.B. x. ß ǅ
[ < @ $5.00 #1 a-C. Mr.-"""
BLANKS = ("\n", "\n\n", ". . .", "\x1c", "\u0301", "\u2014", "\u2019", "\u201c", "\u201d", "\u3000")


@pytest.fixture(scope="module")
def texts():
    generator, pieces = random.Random(2), (*TOKENS.split(), *BLANKS)
    return [
        "".join(
            generator.choice(pieces) + generator.choice((" ", " ", "", "\n", ". "))
            for _ in range(generator.randrange(1, 30))
        )
        for _ in range(2000)
    ]


def test_sentences_and_capital_words_are_those_of_nltk(nltk_data, texts):
    for text in texts:
        assert split_sentences(text) == nltk_data.sent_tokenize(text), text
        num_capitals = sum(word.isupper() for word in nltk_data.word_tokenize(text))
        assert num_capital_words(text) == num_capitals, text


def test_languages_are_those_of_langdetect(seeded, texts):
    from es_align.bench.ifeval_texts import LANGUAGES

    for text in (*LANGUAGES.values(), *map(str.upper, LANGUAGES.values()), *texts[:100], "", "7"):
        try:
            expected = seeded.detect(text)
        except seeded.LangDetectException:
            expected = None
        assert detect_language(text) == expected, text
