"""What preflight refuses and accepts, before any model loads."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from es_align.config import Config, TaskConfig
from es_align.config_loading import apply_overrides
from es_align.errors import ConfigError, EsAlignError
from es_align.preflight import BUNDLED_NAMES, validate
from es_align.task_checks import check_task_settings
from es_align.tasks import COMMON, TASKS

UNREAD: list[tuple[list[str], str]] = [
    (
        ["space.alpha=0.5"],
        "space.alpha=0.5 is only read with space.kind=singular_values and",
    ),
    (
        ["space.alpha=0.5", "space.kind=core", "strategy.kind=eggroll"],
        "this is space.kind=core with space.basis=weight: leave it out or set space.alpha=1.0",
    ),
    (["space.lora_factors=b"], "space.lora_factors=b is only read with space.kind=lora; this is"),
    (["space.master=bf16"], "space.master=bf16 is only read with space.kind=weights; this is"),
    (
        ["space.noise_rank=2"],
        "space.noise_rank=2 is only read with space.kind=core, lora",
    ),
    (
        ["space.kind=weights", "strategy.kind=eggroll"],
        "space.rank=2 is only read where directions or a LoRA are made of the model",
    ),
    (
        ["space.kind=weights", "strategy.kind=eggroll", "space.lora_factors=a"],
        "leave them out or set space.rank=8, space.lora_factors=both",
    ),
]
UNREAD_BY_TASK: list[tuple[list[str], str]] = [
    (
        ["task.name=gsm8k", "task.kinds=all"],
        "task.kinds=[all]: task.name=gsm8k does not read it, it reads num_fewshot, num_heldout, "
        "num_sft, num_train, path, seed, system_prompt; leave it out",
    ),
    (
        ["evaluation.task.name=ifeval", "evaluation.task.families=[quotes]"],
        "evaluation.task.families=[quotes]: evaluation.task.name=ifeval does not read it, it reads "
        "num_heldout, num_train, path, system_prompt; leave it out",
    ),
    (
        ["task.name=letters", "task.path=somewhere", "task.max_words=40"],
        "task.max_words=40, task.path=somewhere: task.name=letters does not read them, it reads "
        "num_heldout, num_train, seed, system_prompt; leave them out",
    ),
    (["task.dataset=leg_counting"], "task.dataset=leg_counting: task.name=instructions does"),
]
VLLM = ["workers.engine=vllm", "precision=bf16"]
PARTS: list[tuple[list[str], str]] = [
    (
        [*VLLM, "space.targets=[q_proj, v_proj, o_proj]"],
        "space.targets=[q_proj, v_proj, o_proj] has q_proj, v_proj but not k_proj, and vLLM "
        "computes these together; add k_proj to space.targets, or use workers.engine=torch",
    ),
    ([*VLLM, "space.targets=[gate_proj]"], "add up_proj to space.targets"),
    ([*VLLM, "space.targets=[k_proj, up_proj]"], "add q_proj, v_proj, gate_proj to space.targets"),
]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["population=33"], "population=33 must be even for antithetic pairs; use 32 or 34"),
        (
            ["prompts_per_generation=65", "task.num_train=64"],
            "prompts_per_generation=65 is more than task.num_train=64",
        ),
        (["samples_per_generation=9"], "samples_per_generation=9 is more than population=8"),
        (
            ["workers.members_per_chunk=3"],
            "members_per_chunk=3 must divide population=8 and be even, so that pairs stay "
            "together; use 2 or 4",
        ),
        (["workers.members_per_chunk=16"], "must divide population=8"),
        (
            ["workers.members_per_chunk=3", "strategy.kind=cma_es"],
            "members_per_chunk=3 must divide population=8; use 2 or 4",
        ),
        (
            ["workers.members_per_chunk=4", "workers.smallest_chunk=1"],
            "workers.smallest_chunk=1 must be workers.members_per_chunk=4 halved some times, "
            "divide population=8 and be even, so that pairs stay together; use 2 or 4",
        ),
        (["workers.smallest_chunk=6"], "must be workers.members_per_chunk=8 halved some times"),
        (
            ["workers.count=4", "workers.smallest_chunk=4"],
            "workers.count=4 but a generation has only 2 chunk(s)",
        ),
        (
            ["strategy.kind=cma_es", "strategy.learning_rate=0.5", "strategy.max_step=2"],
            "strategy.learning_rate=0.5, strategy.max_step=2.0: strategy.kind=cma_es adapts its "
            "sigma and its step to the order of the members and reads none of these; leave them "
            "out or set strategy.learning_rate=0.1, strategy.max_step=null, or use "
            "strategy.kind=openai_es",
        ),
        (
            ["strategy.kind=sep_cma_es", "strategy.sigma_schedule=cosine"],
            "set strategy.sigma_schedule=constant, or use strategy.kind=openai_es",
        ),
        (
            ["strategy.kind=snes", "strategy.learning_rate_schedule=linear"],
            "set strategy.learning_rate_schedule=constant, or use strategy.kind=openai_es",
        ),
        (
            ["strategy.kind=snes", "strategy.shaping=none", "strategy.momentum=0"],
            "set strategy.momentum=0.9, strategy.shaping=z_score, or use strategy.kind=openai_es",
        ),
        (
            ["strategy.learning_rate_schedule=cosine"],
            "strategy.learning_rate_schedule=cosine goes from learning_rate to "
            "strategy.learning_rate_final=1.0 of it, so it stays what it is; set "
            "strategy.learning_rate_final=0.1 or the like, or leave the schedule out",
        ),
        (
            [
                "space.kind=lora",
                "strategy.kind=eggroll",
                "strategy.optimizer=sgd",
                "strategy.momentum=0.95",
            ],
            "strategy.momentum=0.95: strategy.optimizer=sgd has none; set "
            "strategy.optimizer=momentum, or leave momentum out",
        ),
        (
            ["strategy.sigma_final=0.1"],
            "strategy.sigma_final=0.1 is only read with a schedule; set "
            "strategy.sigma_schedule=linear, cosine or exponential, or leave it out",
        ),
        (
            ["strategy.sigma_schedule=linear", "strategy.learning_rate_final=2"],
            "strategy.learning_rate_final=2.0 is only read with a schedule; set "
            "strategy.learning_rate_schedule=linear",
        ),
        (
            ["objective=pass@4", "samples_per_prompt=3", "temperature=1"],
            "objective=pass@4 needs 4 samples of a prompt and samples_per_prompt=3; set "
            "samples_per_prompt=4 or more",
        ),
        (
            ["samples_per_prompt=4"],
            "samples_per_prompt=4 at temperature=0.0 would give the same completion 4 times; set "
            "temperature=0.7 or the like, or samples_per_prompt=1",
        ),
        (["max_new_tokens=256"], "leaves no room for a prompt in workers.max_model_len=256"),
        (["workers.engine=vllm"], "precision=fp32 needs workers.engine=torch, not vllm"),
        (["precision=int8"], "precision=int8 needs workers.engine=vllm, not torch"),
        (["precision=int4"], "precision=int4 needs workers.engine=vllm, not torch"),
        (
            ["workers.count=2"],
            "workers.count=2 but a generation has only 1 chunk(s) of members, so some workers "
            "would have nothing to do; set workers.members_per_chunk=4",
        ),
        (["workers.count=5"], "use at most 4 workers"),
        (["workers.cpus=3"], "needs 3 cores and this machine has 2"),
        (
            ["workers.count=4", "workers.members_per_chunk=2"],
            "workers.count=4 with workers.cpus=1 needs 4 cores and this machine has 2",
        ),
        (
            ["workers.gpus=2"],
            "workers.gpus=2 would leave GPUs idle: a worker holds its model on one",
        ),
        (["model=./nowhere"], "model=./nowhere does not exist"),
        (["model=/no/such/model"], "model=/no/such/model does not exist"),
        (["model=a/b/c"], "model=a/b/c does not exist"),
        (["model=smollm2-135m"], "did you mean smollm2-135m-instruct?"),
        (["space.basis=adapter"], "space.basis=adapter needs space.adapter"),
        (
            ["space.basis=adapter", "space.adapter=nowhere"],
            "space.adapter=nowhere has no adapter_config.json",
        ),
        *UNREAD,
        *PARTS,
        (["space.adapter=somewhere"], "is only read with space.basis=adapter, which is weight"),
        (
            ["space.basis=adapter", "space.kind=core", "strategy.kind=eggroll"],
            "space.basis=adapter is not there for space.kind=core, whose basis has one factor; use "
            "space.kind=singular_values",
        ),
        (["space.basis=quantisation_error"], "precision=fp32 leaves the weights of tiny as they"),
        (
            ["space.basis=quantisation_error", "precision=bf16"],
            "precision=bf16 leaves the weights of tiny as they are; set precision=int8 or int4",
        ),
        (
            ["task.name=gsm8k", "task.path=nowhere"],
            "task.path=nowhere has no train.jsonl",
        ),
    ],
)
def test_preflight_refuses(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, overrides: list[str], told: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    config = apply_overrides(tiny_config, ["population=8", *overrides])
    with pytest.raises(EsAlignError) as caught:
        validate(config)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["population=33", "strategy.kind=cma_es"],
        ["population=33", "strategy.kind=sep_cma_es", "strategy.sigma=0.2"],
        ["population=33", "strategy.kind=snes", "strategy.centring=none"],
        ["strategy.sigma_schedule=exponential", "strategy.sigma_final=0.1"],
        ["strategy.learning_rate_schedule=cosine", "strategy.learning_rate_final=1e-3"],
        ["strategy.max_step=0.5", "strategy.shaping=leave_one_out"],
        ["objective=pass@4", "samples_per_prompt=4", "temperature=0.7"],
        ["objective=pass@1", "strategy.tie_break=0.5"],
        ["samples_per_prompt=8", "temperature=1", "strategy.kind=snes", "strategy.tie_break=0.1"],
        ["workers.count=2", "workers.members_per_chunk=2"],
        ["model=owner/name"],
        ["space.basis=activations"],
        ["space.targets=[q_proj]"],
        [*VLLM, "space.targets=[q_proj, k_proj, v_proj, down_proj]"],
        ["space.kind=lora", "strategy.kind=eggroll", "space.lora_factors=b", "space.noise_rank=2"],
        [
            "space.kind=weights",
            "strategy.kind=eggroll",
            "space.rank=8",
            "space.master=bf16",
            "space.noise_rank=2",
        ],
        ["space.basis=random", "space.kind=core", "strategy.kind=eggroll"],
        ["space.basis=quantisation_error", "precision=int4", "workers.engine=vllm"],
        [
            "workers.count=64",
            "population=128",
            "workers.members_per_chunk=2",
            "workers.address=auto",
        ],
    ],
)
def test_preflight_accepts(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    validate(apply_overrides(tiny_config, overrides))


def test_vllm_must_be_installed(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="vLLM is not installed; run `make setup`"):
        validate(apply_overrides(tiny_config, ["workers.engine=vllm", "precision=bf16"]))


def test_vllm_for_gpus_needs_one(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("es_align.preflight.versions", lambda names: dict.fromkeys(names, "0.31"))
    with pytest.raises(ConfigError, match=r"computes on GPUs; set workers\.gpus=1, or make an"):
        validate(apply_overrides(tiny_config, ["workers.engine=vllm", "precision=bf16"]))
    with_gpu = ["workers.engine=vllm", "precision=bf16", "workers.gpus=1"]
    validate(apply_overrides(tiny_config, with_gpu))


def test_model_folder_must_hold_a_model(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(EsAlignError, match=r"is a folder without config\.json"):
        validate(apply_overrides(tiny_config, [f"model={tmp_path}"]))
    (tmp_path / "config.json").write_text("{}")
    validate(apply_overrides(tiny_config, [f"model={tmp_path}"]))
    with pytest.raises(EsAlignError, match="is a file"):
        validate(apply_overrides(tiny_config, [f"model={tmp_path / 'config.json'}"]))


def test_bundled_names_are_those_that_are_built() -> None:
    bundled = importlib.import_module("es_align.bundled")
    assert set(BUNDLED_NAMES) == set(bundled.BUNDLED_MODELS)


def write_adapter(folder: Path, *names: str) -> Path:
    """An adapter of these layers, as far as preflight looks at it."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    keys = [
        f"base_model.model.model.layers.{name}.lora_{part}.weight"
        for name in names
        for part in "AB"
    ]
    save_file({key: np.zeros((1, 1)) for key in keys}, folder / "adapter_model.safetensors")
    return folder


def of_adapter(config: Config, folder: Path, *overrides: str) -> Config:
    given = ["space.rank=8", "space.basis=adapter", f"space.adapter={folder}", *overrides]
    return apply_overrides(config, given)


def test_an_adapter_has_its_own_rank_and_layers(tiny_config: Config, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", "0.self_attn.q_proj")
    validate(of_adapter(tiny_config, folder, "space.alpha=0.5"))
    lora = ["space.kind=lora", "strategy.kind=eggroll"]
    for overrides, told in (
        (["space.rank=2"], r"space.rank=2 is only read where .*an adapter has its own rank"),
        (["space.targets=[q_proj]"], r"space.targets=\[q_proj\] is only read where no adapter is"),
        ([*lora, "space.alpha=0.5"], r"space.alpha=0.5 is only .* this is space.kind=lora with"),
    ):
        with pytest.raises(ConfigError, match=told):
            validate(of_adapter(tiny_config, folder, *overrides))


def test_an_adapter_of_a_part_of_what_vllm_fuses_is_refused(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Layer by layer: the second block lacks k and v, although the first has all."""
    attention = [f"0.self_attn.{name}_proj" for name in "qkv"]
    whole = write_adapter(tmp_path / "whole", *attention, "1.mlp.down_proj")
    validate(of_adapter(tiny_config, whole, *VLLM))
    part = write_adapter(tmp_path / "part", *attention, "1.self_attn.q_proj")
    validate(of_adapter(tiny_config, part))
    told = r"has q_proj of model\.layers\.1\.self_attn but not k_proj, v_proj, .* on q, k and v"
    with pytest.raises(ConfigError, match=told):
        validate(of_adapter(tiny_config, part, *VLLM))
    (part / "adapter_model.safetensors").write_text("no")
    with pytest.raises(EsAlignError, match="is no safetensors file"):
        validate(of_adapter(tiny_config, part, *VLLM))


def test_layers_that_the_model_has_not_are_not_missed(tiny_config: Config, tmp_path: Path) -> None:
    """DeepSeek's attention has a q_proj, and neither k_proj nor v_proj."""
    (tmp_path / "config.json").write_text("{}")
    keys = ("q_proj", "kv_b_proj", "o_proj")
    tensors = {f"model.layers.0.self_attn.{key}.weight": np.zeros((1, 1)) for key in keys}
    save_file(tensors, tmp_path / "model.safetensors")
    validate(apply_overrides(tiny_config, [*VLLM, f"model={tmp_path}", "space.targets=[q_proj]"]))


def test_a_run_keeps_settings_that_are_refused_to_a_new_one(tiny_config: Config) -> None:
    config = apply_overrides(tiny_config, ["space.alpha=0.5"])
    validate(config, is_begun=True)
    with pytest.raises(ConfigError, match="only read"):
        validate(config)


@pytest.mark.parametrize(("overrides", "told"), UNREAD_BY_TASK)
def test_settings_that_a_task_does_not_read_are_refused(overrides: list[str], told: str) -> None:
    base = ["workers.engine=torch", "precision=bf16", "max_new_tokens=8"]
    base += ["evaluation.max_new_tokens=8"]
    config = apply_overrides(Config(model="tiny"), [*base, *overrides])
    with pytest.raises(ConfigError) as caught:
        validate(config, is_trained=False)
    assert told in str(caught.value)
    validate(config, is_begun=True, is_trained=False)


def test_a_tasks_setting_at_its_default_is_not_refused() -> None:
    overrides = ["task.name=letters", "task.dataset=chain_sum", "task.num_fewshot=0"]
    check_task_settings(apply_overrides(Config(model="tiny"), overrides))
    assert all({*COMMON, *entry.reads} <= set(TaskConfig.model_fields) for entry in TASKS.values())
