"""Bytes of a chunk's two messages, as they are pickled."""

import pickle
from dataclasses import dataclass, replace

import numpy as np

from workers.protocol import Chunk, ChunkResult


@dataclass(frozen=True, slots=True)
class MessageBytes:
    """One chunk, there and back."""

    chunk: int  # without its prompt ids and the vectors of its members
    prompt_ids: int
    result: int  # without scores
    scores: int  # of each member and prompt: its reward and its verdict


def message_bytes(chunk: Chunk, result: ChunkResult, *, has_seeds: bool) -> MessageBytes:
    """Sizes of a chunk and its answer, kept completions aside; vectors are no part of it where
    members are none but seeds."""
    seeds = chunk.perturbed if has_seeds else None
    bare = replace(chunk, prompt_ids=(), sample_members=(), perturbed=seeds)
    result = replace(result, samples=())
    none_MP = np.empty((len(result.members), 0))
    unscored = replace(result, rewards_MP=none_MP, passed_MP=none_MP, metrics_MP={})
    num_result = len(pickle.dumps(unscored))
    return MessageBytes(
        chunk=len(pickle.dumps(bare)),
        prompt_ids=len(pickle.dumps(chunk.prompt_ids)),
        result=num_result,
        scores=len(pickle.dumps(result)) - num_result,
    )
