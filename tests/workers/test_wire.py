"""What crosses the wire comes out as it went in; a member that is a seed costs next to nothing."""

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from workers.members import Members, NoiseMembers, pack, unpack
from workers.protocol import MEAN_MEMBER, Chunk, ChunkResult, Sample, Sampling

DIGEST = "0123456789abcdef" * 4
LIMIT_BYTES = 16  # a member, sent and received, without prompt ids and scores
MEMBERS, PROMPTS = 32, 8


def seeds(num_members: int = MEMBERS, first: int = 700) -> NoiseMembers:
    pairs = tuple(first + member // 2 for member in range(num_members))
    return NoiseMembers(2**62, 12, pairs, (1, -1) * (num_members // 2), 0.05)


def make_chunk(perturbed: Members | None, members: tuple[int, ...]) -> Chunk:
    sampling = Sampling(320, 0.7, seed=(5 << 32) + 12, ignore_eos=True, with_log_likelihood=True)
    return Chunk(17, 12, members, perturbed, ("train/3", "train/9"), sampling, members[:1], 4, 2)


def make_result(num_members: int = MEMBERS, num_prompts: int = PROMPTS) -> ChunkResult:
    scores_MP = np.random.Generator(np.random.Philox(3)).random((num_members, num_prompts))
    scores_MP[0, 0] = np.nan
    return ChunkResult(
        chunk_id=700,
        members=tuple(range(1400, 1400 + num_members)),
        rewards_MP=scores_MP,
        passed_MP=scores_MP / 3,
        metrics_MP={"strict": scores_MP / 5},
        reasons=Counter(ok=200, wrong=56),
        num_completions=num_members * num_prompts,
        num_unscored=1,
        num_generated_tokens=54_321,
        num_prompt_tokens=25_600,
        generate_s=1.2345,
        score_s=0.125,
        mean_digest=DIGEST,
        samples=(Sample(1400, "train/3", "say", "said", None, False, "wrong"),),
    )


@pytest.mark.parametrize(
    ("numbers", "packed"),
    [
        ((), (0, 0)),
        ((7,), (7, 1)),
        ((MEAN_MEMBER,), (-2, 1)),
        ((4, 5, 6), (4, 3)),
        ((4, 6), [4, 6]),
        ((5, 4), [5, 4]),
    ],
)
def test_numbers_that_count_up_are_their_first_and_how_many(
    numbers: tuple[int, ...], packed: object
) -> None:
    assert pack(numbers) == packed
    assert unpack(pack(numbers)) == numbers


@pytest.mark.parametrize(
    "members",
    [
        seeds(),
        NoiseMembers(1, 2, (9, 4, 9, 0), (1, -1, -1, 0), 0.1, "rademacher"),
        NoiseMembers(1, 2, (3, 3), (-1, 1), 0.1),
        NoiseMembers(1, 2, (3, 3, 8, 8), (1, -1, 1, -1), 0.1),
        NoiseMembers(1, 2, (3, 3, 4), (1, -1, 1), 0.1),
        NoiseMembers(0, 0, (0,), (0,), 0.0),
    ],
)
def test_seeds_come_out_as_they_went_in(members: NoiseMembers) -> None:
    assert pickle.loads(pickle.dumps(members)) == members


def test_the_mean_goes_with_the_seeds_of_a_space_that_has_a_vector() -> None:
    mean_D = np.arange(6, dtype=np.float32)
    back = pickle.loads(pickle.dumps(replace(seeds(), mean_D=mean_D)))
    np.testing.assert_array_equal(back.mean_D, mean_D)
    assert replace(back, mean_D=None) == seeds()


@pytest.mark.parametrize("perturbed", [seeds(4), None])
def test_chunks_come_out_as_they_went_in(perturbed: Members | None) -> None:
    for members in ((4, 5, 6, 7), (MEAN_MEMBER,), (9, 2)):
        chunk = make_chunk(perturbed, members)
        assert pickle.loads(pickle.dumps(chunk)) == chunk


def test_vectors_come_out_as_they_went_in() -> None:
    vectors_MD = np.arange(12, dtype=np.float32).reshape(4, 3)
    back = pickle.loads(pickle.dumps(make_chunk(vectors_MD, (0, 1, 2, 3))))
    np.testing.assert_array_equal(back.perturbed, vectors_MD)
    assert back.perturbed.dtype == np.float32


@pytest.mark.parametrize("num_different", [1, 2, 256, 257])
def test_scores_of_few_values_take_a_byte_and_come_out_bit_for_bit(num_different: int) -> None:
    odd = [np.nan, -0.0, 0.0, np.inf, -np.nan, 5e-324]
    values = np.array([*odd, *np.linspace(0.1, 1, 251)])[:num_different]
    scores_MP = np.resize(values, (64, 128))
    result = replace(make_result(64, 128), rewards_MP=scores_MP, passed_MP=scores_MP.T.copy().T)
    sent = pickle.dumps(result)
    back = pickle.loads(sent)
    for name in ("rewards_MP", "passed_MP"):
        assert getattr(back, name).shape == (64, 128)
        assert getattr(back, name).tobytes() == scores_MP.tobytes()
    strict = result.metrics_MP["strict"].nbytes
    each = 1 if num_different <= 256 else 8
    assert each * 2 * scores_MP.size < len(sent) - strict < (each + 0.6) * 2 * scores_MP.size


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_results_come_out_as_they_went_in(digest: str | None) -> None:
    result = replace(make_result(), mean_digest=digest)
    back = pickle.loads(pickle.dumps(result))
    for name in ("rewards_MP", "passed_MP"):
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))
    np.testing.assert_array_equal(back.metrics_MP["strict"], result.metrics_MP["strict"])
    plain = {"rewards_MP": 0, "passed_MP": 0, "metrics_MP": {}}
    assert replace(back, **plain) == replace(result, **plain)


def test_a_member_in_a_seeded_space_takes_less_than_16_bytes_beside_its_scores() -> None:
    chunk = replace(make_chunk(seeds(), tuple(range(1400, 1400 + MEMBERS))), prompt_ids=())
    result = replace(make_result(), samples=(), metrics_MP={})
    scores = result.rewards_MP.nbytes + result.passed_MP.nbytes
    num_bytes = len(pickle.dumps(chunk)) + len(pickle.dumps(result)) - scores
    assert num_bytes < LIMIT_BYTES * MEMBERS
    half = replace(make_chunk(seeds(16), tuple(range(1400, 1416))), prompt_ids=())
    assert len(pickle.dumps(chunk)) == len(pickle.dumps(half))  # members cost a chunk nothing
