"""The sections of a configuration that say what moves and how: the space and the strategy.

With them what every section is made of. `es_align.config` has the others and the whole tree.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

SpaceKind = Literal["singular_values", "core", "lora", "weights"]
BasisKind = Literal["weight", "activations", "quantisation_error", "random", "adapter"]
Schedule = Literal["constant", "linear", "cosine", "exponential"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
LayerNames = Annotated[tuple[str, ...], Field(min_length=1)]

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = (*ATTENTION_LAYERS, "gate_proj", "up_proj", "down_proj")
SEEDED_SPACES = ("core", "lora", "weights")  # members are seeds, and workers hold the mean


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_number(cls, value: object, info: ValidationInfo) -> object:
        """`count: yes` must not be read as 1, which pydantic would do."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation not in (bool, bool | None):
            raise ValueError("is a truth value; put YAML words such as yes, no, on, off in quotes")
        return value


class SpaceConfig(Section):
    """What is perturbed.

    Settings that only some spaces read are refused with the others (es_align/space_checks.py).
    """

    kind: SpaceKind = "singular_values"
    basis: BasisKind = "weight"
    """Which directions are frozen (docs/spaces.md): the weight's leading ones; those of the inputs
    on the first 64 training prompts; those of what int8 or int4 rounded away, where the mean starts
    at the repair; random ones; or (singular_values) those of a PEFT LoRA. lora: weight is a fresh
    LoRA, adapter goes on from one."""
    rank: Count = 8
    """Directions per layer, or rank of a fresh LoRA; an adapter has its own, `weights` has none:
    there it is refused."""
    noise_rank: Count = 1
    """core, lora, weights: rank of a member's noise on each matrix."""
    lora_factors: Literal["both", "a", "b"] = "both"
    """lora: the factors that move."""
    master: Literal["fp32", "bf16"] = "fp32"
    """weights: how workers keep the mean, bf16 with a residual that loses nothing."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0
    """singular_values with basis adapter: share of the adapter's singular values that move, largest
    first (ESSA's alpha)."""
    adapter: str | None = None
    """Folder of a PEFT LoRA (basis adapter)."""
    targets: LayerNames = LINEAR_LAYERS
    """Last part of the names of the linear layers that are perturbed; with basis adapter all that
    the adapter has. vLLM takes q, k and v only together, and so gate and up."""


class StrategyConfig(Section):
    """How the mean moves.

    cma_es, sep_cma_es and snes adapt sigma and step themselves by the order of the members; what
    only openai_es and eggroll read is said at the field, and refused with the others.
    """

    kind: Literal["openai_es", "cma_es", "sep_cma_es", "snes", "eggroll"] | None = None
    """Left out or null: the space's own, openai_es for singular values, eggroll for the others."""
    sigma: Positive = 0.05
    """Standard deviation of the noise in the first generation: relative to each direction's unit
    (docs/spaces.md), or in a seeded space to that of each matrix (es_align/spaces/layers.py)."""
    sigma_schedule: Schedule = "constant"
    """openai_es, eggroll: how sigma goes from its start to its end over the run
    (es_align/schedules.py)."""
    sigma_final: Positive = 1.0
    """openai_es, eggroll: sigma of the last generation as a share of the first one's."""
    learning_rate: Positive = 0.1
    """openai_es, eggroll: step in units of sigma times the estimated gradient's scale."""
    learning_rate_schedule: Schedule = "constant"
    """openai_es, eggroll: how the learning rate goes from its start to its end over the run."""
    learning_rate_final: Positive = 1.0
    """openai_es, eggroll: learning rate of the last generation as a share of the first one's."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """openai_es, eggroll: what is left of the velocity in the next generation; with optimizer adam
    its first beta."""
    max_step: Positive | None = None
    """openai_es, eggroll: longest step, L2 norm in units of sigma * sqrt(D); none: no limit."""
    optimizer: Literal["sgd", "momentum", "adam"] = "momentum"
    """eggroll: what makes a step of the gradient (torch.optim)."""
    noise: Literal["binomial", "rademacher"] = "binomial"
    """eggroll: entries of the noise's factors."""
    noise_reuse: Count = 1
    """eggroll: generations that share their noise."""
    centring: Literal["prompt", "none"] = "prompt"
    """Whether every prompt is centred over the members before a member's rewards are averaged."""
    tie_break: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Spreads members of equal fitness by the likelihood of their completions, over this share of
    the smallest gap between fitness values (docs/objectives.md); 0: off. Where only the order
    counts (centred_ranks, cma_es, sep_cma_es, snes) any value above 0 acts the same."""
    shaping: Literal["centred", "leave_one_out", "z_score", "centred_ranks", "none"] = "z_score"
    """openai_es, eggroll: how fitness is scaled before the update."""


def is_seeded(space: str) -> bool:
    """Whether a space's members are seeds (strategy eggroll), not vectors."""
    return space in SEEDED_SPACES
