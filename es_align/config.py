"""The configuration of a run: one frozen tree, checked completely before Ray or a model starts.

YAML files are sparse: what they leave out has the default written here. Bounds stand on the fields.
`es_align.config_loading` reads files and dotted overrides and refuses unknown keys with the nearest
known one; `es_align.preflight` checks what needs more than one field or a look at the machine.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from es_align.budget import BudgetConfig
from es_align.config_search import Count, Positive, Section, SpaceConfig, StrategyConfig, is_seeded

Precision = Literal["fp32", "bf16", "int8", "int4"]

PASS_AT_K = re.compile(r"pass@([1-9][0-9]*)")
NEW_TOKENS = {
    "instructions": 40,
    "gsm8k": 256,
    "reasoning_gym": 128,
    "letters": 8,
    "ifeval": 1280,
    "prompts": 256,
}
NEW_TOKENS_OF_KINDS = 320  # instructions with task.kinds: stories, letters, two answers
WITH_TEST_SPLIT = ("gsm8k", "ifeval", "prompts")


class TaskConfig(Section):
    """What the model is asked, and how answers are scored."""

    name: Literal["instructions", "gsm8k", "reasoning_gym", "letters", "ifeval", "prompts"] = (
        "instructions"
    )
    """prompts are your own, with a `reward` of your choice; ifeval is there to test on
    (`evaluation.task`), not to train on."""
    families: tuple[str, ...] = ()
    """instructions: constraint families to draw from; empty means all."""
    kinds: tuple[str, ...] = ()
    """instructions: in place of families, IFEval's instruction ids to draw from, or `all` of the 25
    (docs/tasks.md)."""
    max_instructions: Annotated[int, Field(ge=1, le=3)] = 3
    """instructions with kinds: most instructions in one prompt."""
    max_words: Annotated[int, Field(ge=30)] | None = None
    """instructions with kinds: words that a prompt may ask for at least, and prompts say to be
    brief; none: IFEval's own range, up to 800."""
    path: str | None = None
    """gsm8k: folder with train.jsonl and test.jsonl; ifeval: input_data.jsonl or its folder; none
    means the Hugging Face hub. prompts: a folder like gsm8k's, or one file
    (docs/your-own.md)."""
    dataset: str = "chain_sum"
    """reasoning_gym: name of the procedural data set."""
    num_train: Count = 512
    """Prompts in the training pool."""
    num_heldout: Annotated[int, Field(ge=0)] = 64
    """Held-out prompts, disjoint from the pool; never trained on. 0: all there are (gsm8k,
    prompts, and where it is left out ifeval)."""
    num_sft: Annotated[int, Field(ge=0)] = 0
    """gsm8k: problems of the training split that are kept for a warm start (`es-align sft`) and
    never asked; ESSA's splits are 1495 and num_train 5978."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the prompts, apart from the run's, so that several runs share held-out prompts."""
    system_prompt: str | None = None
    """Replaces the chat template's default system prompt."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    """gsm8k: solved problems of the training split before each question, as turns of the chat; the
    same ones every time, and none that is trained on."""

    @field_validator("kinds", mode="before")
    @classmethod
    def _name_is_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _all_of_ifeval(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("name") == "ifeval":
            return {"num_heldout": 0, **data}
        return data

    @model_validator(mode="after")
    def _has_shots(self) -> "TaskConfig":
        if self.num_fewshot and self.name != "gsm8k":
            raise ValueError(
                f"num_fewshot={self.num_fewshot}: {self.name} has no solved examples to show; "
                "leave it out, only gsm8k has"
            )
        return self

    @model_validator(mode="after")
    def _all_is_a_number(self) -> "TaskConfig":
        if self.num_heldout == 0 and self.name not in WITH_TEST_SPLIT:
            raise ValueError(
                f"num_heldout=0 asks for a whole test split, and {self.name} makes its prompts as "
                "many as are asked for; give a number"
            )
        return self


class RewardConfig(Section):
    """One reward; see docs/rewards.md."""

    name: str
    """A shipped reward, an installed entry point, or path/to/file.py:function."""
    weight: float = 1.0
    """What its score counts in the sum of several rewards."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the reward, such as `pattern` of regex."""
    pass_at: float | None = None
    """A completion passes from this score on; none: the reward's own verdict, 1.0 for a function of
    yours; log_likelihood and reward_model have none. The first of several rewards decides."""
    time_limit_s: Positive = 10.0
    """math, regex, json_schema, reasoning_gym, functions of yours: of one call; what is later is
    killed."""
    batch_size: Count = 16
    """Functions of yours: completions in one call; asked one at a time where it fails."""
    processes: Count | None = None
    """Processes on each worker; none: its cores, one for a function of yours."""
    chat: bool = False
    """Functions of yours: prompts and completions as chat messages, not as text."""


class EvaluationConfig(Section):
    """Held-out evaluation, always greedy."""

    task: TaskConfig | None = None
    """A task whose held-out prompts are asked, scored by its own reward, in place of those of the
    task that is trained on; none: that task's own."""
    max_new_tokens: Count | None = None
    """Length of an answer; none: as in training, with `task` that task's own (`NEW_TOKENS`)."""
    every: Annotated[int, Field(ge=0)] = 5
    """Generations between evaluations of the mean; 0: only before and after."""
    noise_floor_repeats: Annotated[int, Field(ge=0)] = 1
    """Extra evaluations of the unperturbed model on one batch: the engine's own noise."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 10_000


class WorkersConfig(Section):
    """Who evaluates."""

    engine: Literal["vllm", "torch"] = "vllm"
    count: Count = 1
    min_count: Count | None = None
    """Workers that a run begins with; the others join when there is room for them. none: all."""
    cpus: Count | None = None
    """Cores of each worker; none: the machine's cores shared out, with `address` one."""
    gpus: Annotated[float, Field(ge=0)] = 0
    address: str | None = None
    """Ray cluster: auto, host:port or ray://host:port (docs/cluster.md); none starts a private one
    on this machine."""
    resources: dict[str, Positive] = Field(default_factory=dict)
    """With `address`: Ray's custom resources that each worker takes of a node."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """With `address`: labels of the nodes to use, such as `{ray.io/accelerator-type: H100}`; also
    `"!H100"` and `in(A100, H100)`."""
    members_per_chunk: Count | None = None
    """Members in one unit of work; none: the whole population. Part of the result's identity."""
    smallest_chunk: Count | None = None
    """Members in a generation's last units of work: sizes go down to it from `members_per_chunk` by
    halves, so that engines are full and workers still end together; none: all of one size."""
    drop_slowest: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of a generation's members that is not waited for once the others are there, in whole
    chunks. They have no score (reason `dropped`): such a run's numbers depend on who was late, and
    only its ledger can say them again."""
    chunk_deadline_s: Positive = 600
    load_deadline_s: Positive = 900
    """For loading the model, and as long again for making a run's moves so far. A worker that takes
    longer is killed and made anew; without any for twice as long the run ends."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often one chunk may fail before the run stops."""
    max_model_len: Count = 1024
    compile: bool | None = None
    """vllm: compile the model (the first start takes a minute or two, later ones come from vLLM's
    cache); none: on GPUs only."""
    kv_cache_gb: Positive = 1.0
    """Memory for vLLM's key-value cache."""


def heldout_task(config: "Config") -> TaskConfig:
    """The task whose held-out prompts are asked."""
    return config.task if config.evaluation.task is None else config.evaluation.task


def heldout_new_tokens(config: "Config") -> int:
    """Length of an answer to a held-out prompt, in tokens."""
    evaluation = config.evaluation
    if evaluation.max_new_tokens is not None:
        return evaluation.max_new_tokens
    if evaluation.task is None:
        return config.max_new_tokens
    return usual_new_tokens(evaluation.task.name, has_kinds=bool(evaluation.task.kinds))


def usual_new_tokens(task_name: str, *, has_kinds: bool = False) -> int:
    """Length of an answer where no configuration says one, in tokens."""
    if task_name == "instructions" and has_kinds:
        return NEW_TOKENS_OF_KINDS
    return NEW_TOKENS[task_name]


def only_tested(config: "Config", task: TaskConfig, new_tokens: int) -> dict[str, Any]:
    """The settings of a configuration as a tree, by which its workers are asked a task's held-out
    prompts and nothing else.
    """
    tree = config.model_dump(mode="json")
    tree |= {"task": task.model_dump(mode="json"), "max_new_tokens": new_tokens}
    # No generation is drawn, so its size is nothing that the task could have too few prompts for.
    tree["prompts_per_generation"] = 1
    tree["evaluation"] |= {"task": None, "max_new_tokens": None}
    return tree


def pass_k(objective: str) -> int | None:
    """The k of objective pass@k; None for mean. Raises ValueError for anything else."""
    if objective == "mean":
        return None
    written = PASS_AT_K.fullmatch(objective)
    if written is None:
        raise ValueError("must be mean, or pass@k with a whole k from 1; write pass@4")
    return int(written[1])


class Config(Section):
    """A whole run."""

    model: str = "smollm2-135m-instruct"
    """Hub id, directory, or a bundled name."""
    precision: Precision = "bf16"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    generations: Count = 40
    budget: BudgetConfig = BudgetConfig()
    """Ends the run before its last generation; schedules go by generations all the same."""
    population: Annotated[int, Field(ge=2)] = 32
    prompts_per_generation: Count = 8
    max_new_tokens: Count = 40
    """Length of an answer; left out or null: the task's own (`NEW_TOKENS`)."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples_per_prompt: Count = 1
    """Completions of each prompt by each member, on seeds common to the members; above 1 needs a
    temperature."""
    objective: str = "mean"
    """What a prompt's samples amount to: `mean` of their rewards, or `pass@4`, the probability that
    at least one of 4 passes; any k up to samples_per_prompt."""
    samples_per_generation: Annotated[int, Field(ge=0)] = 2
    """Members whose completions are kept in samples.jsonl each generation."""
    checkpoint_every: Count = 5
    """Generations between checkpoints, from which resuming drivers and joining workers go on; in
    space `weights`, where one holds the whole model, ten times as many."""
    run_dir: str | None = None
    """Run folder; none: runs/<config name>-<seed>."""
    mirror: str | None = None
    """Where every generation is stored as well, so that a machine may be lost with its disk:
    s3://bucket/run, file:///nfs/run or another URL that fsspec knows (docs/storage.md)."""
    task: TaskConfig = TaskConfig()
    reward: tuple[RewardConfig, ...] = ()
    """Left out: the task's own. A name, a section with its settings, or a list of either, whose
    weighted sum counts."""
    space: SpaceConfig = SpaceConfig()
    strategy: StrategyConfig = StrategyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    workers: WorkersConfig = WorkersConfig()

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, value: str) -> str:
        pass_k(value)
        return value

    @field_validator("reward", mode="before")
    @classmethod
    def _names_are_sections(cls, value: object) -> object:
        if value is None:
            return ()
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple({"name": item} if isinstance(item, str) else item for item in listed)

    @model_validator(mode="before")
    @classmethod
    def _length_of_the_task(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("max_new_tokens") is not None:
            return data
        task = data.get("task", {})
        if isinstance(task, TaskConfig):
            task = {"name": task.name, "kinds": task.kinds}
        # A section of the wrong kind is told about by its own check, not here.
        fields = task if isinstance(task, Mapping) else {}
        name = str(fields.get("name", "instructions"))
        length = usual_new_tokens(
            name if name in NEW_TOKENS else "instructions", has_kinds=bool(fields.get("kinds"))
        )
        return {**data, "max_new_tokens": length}

    @model_validator(mode="before")
    @classmethod
    def _strategy_of_the_space(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        strategy, space = _fields(data.get("strategy", {})), _fields(data.get("space", {}))
        if strategy is None or space is None or strategy.get("kind") is not None:
            return data
        kind = "eggroll" if is_seeded(str(space.get("kind"))) else "openai_es"
        return {**data, "strategy": {**strategy, "kind": kind}}


def _fields(section: object) -> Mapping[str, object] | None:
    """A section as a mapping; None for what its own check will refuse."""
    if isinstance(section, Section):
        return section.model_dump()
    return section if isinstance(section, Mapping) else None
