"""Reading configurations: shipped files, YAML's traps, overrides, and what each mistake is told."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from es_align.config import Config, TaskConfig, pass_k
from es_align.config_errors import known_keys, suggest_key
from es_align.config_loading import (
    NOT_IDENTITY,
    apply_overrides,
    changed_fields,
    config_digest,
    default_run_dir,
    load_config,
)
from es_align.errors import ConfigError, EsAlignError
from es_align.preflight import BUNDLED_NAMES, validate
from es_align.task_checks import check_task_settings
from es_align.tasks import COMMON, TASKS

WriteConfig = Callable[[str], Path]
SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MAX_SHIPPED_LINES = 40


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


UNREAD_BY_TASK: list[tuple[list[str], str]] = [
    (
        ["task.name=gsm8k", "task.kinds=all"],
        "task.kinds=[all]: task.name=gsm8k does not read it, it reads num_fewshot, num_heldout, "
        "num_train, path, seed, system_prompt; leave it out",
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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_config_loads_and_passes_preflight(path: Path) -> None:
    config = load_config(path)
    validate(config)
    assert config != Config(), "a shipped config must say something"
    assert len(path.read_text().splitlines()) < MAX_SHIPPED_LINES


def test_there_are_shipped_configs() -> None:
    assert {"tiny"} <= {path.stem for path in SHIPPED}


def test_empty_file_gives_the_defaults(write_config: WriteConfig) -> None:
    assert load_config(write_config("")) == Config()
    assert load_config(write_config("# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("1.5e3", 1500.0), ("2e0", 2.0), ("0.05", 0.05), ("1", 1.0)],
)
def test_numbers_with_exponents_are_numbers(
    write_config: WriteConfig, text: str, value: float
) -> None:
    assert load_config(write_config(f"strategy: {{sigma: {text}}}")).strategy.sigma == value


def test_whole_number_may_have_an_exponent(write_config: WriteConfig) -> None:
    assert load_config(write_config("generations: 1e2")).generations == 100


def test_text_that_looks_like_a_number_with_an_exponent_stays_text_in_quotes(
    write_config: WriteConfig,
) -> None:
    assert load_config(write_config('model: "1e3"')).model == "1e3"


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_any_float_survives_an_override(sigma: float) -> None:
    assert apply_overrides(Config(), [f"strategy.sigma={sigma!r}"]).strategy.sigma == sigma


def test_overrides_are_yaml_and_come_last(write_config: WriteConfig) -> None:
    path = write_config("population: 8\ntask: {num_train: 64}")
    config = load_config(
        path,
        [
            "population=64",
            "task.name=gsm8k",
            "space.targets=[q_proj, v_proj]",
            "workers.members_per_chunk=",
            "task.system_prompt=a = b",
        ],
    )
    assert config.population == 64
    assert config.task.num_train == 64
    assert config.task.name == "gsm8k"
    assert config.space.targets == ("q_proj", "v_proj")
    assert config.workers.members_per_chunk is None
    assert config.task.system_prompt == "a = b"


def test_apply_overrides_leaves_its_argument_alone() -> None:
    config = Config()
    assert apply_overrides(config, ["seed=7"]).seed == 7
    assert config.seed == 0


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        ("populaton: 3", [], "populaton is no setting; did you mean population?"),
        ("strategy: {sgima: 1}", [], "strategy.sgima is no setting; did you mean strategy.sigma?"),
        ("sigma: 1", [], "sigma is no setting; did you mean strategy.sigma?"),
        ("", ["stategy.sigma=1"], "stategy is no setting; did you mean strategy?"),
        ("", ["space.foo=1"], "space.foo is no setting; space has: kind, basis, rank"),
        ("", ["space.basis=activation"], "'random' or 'adapter'; did you mean activations?"),
        ("", ["qqqq=1"], "qqqq is no setting; there are: model, precision"),
        ("population: 1", [], "population=1 must be at least 2; use 2 or more."),
        ("temperature: -0.5", [], "temperature=-0.5 must be at least 0; use 0 or more."),
        ("strategy: {sigma: 0}", [], "strategy.sigma=0 must be above 0"),
        ("strategy: {momentum: 1}", [], "strategy.momentum=1 must be below 1"),
        ("space: {alpha: 1.5}", [], "space.alpha=1.5 must be at most 1; use 1 or less."),
        ("strategy: {sigma: .inf}", [], "strategy.sigma=inf must be finite"),
        ("strategy: {tie_break: 0.6}", [], "strategy.tie_break=0.6 must be at most 0.5"),
        ("objective: pass4", [], "objective='pass4' must be mean, or pass@k with a whole k from"),
        ("", ["objective=pass@0"], "objective='pass@0' must be mean, or pass@k"),
        ("", ["objective=pass@2.5"], "whole k from 1; write pass@4"),
        ("samples_per_prompt: 0", [], "samples_per_prompt=0 must be at least 1; use 1 or more."),
        ("precision: int9", [], "must be 'fp32', 'bf16', 'int8' or 'int4'; did you mean int8?"),
        ("generations: 2.5", [], "generations=2.5 must be a whole number"),
        ("generations: ten", [], "generations='ten' must be a whole number"),
        ("strategy: {sigma: small}", [], "strategy.sigma='small' must be a number"),
        ("population: yes", [], "population=True is a truth value"),
        ("model: 5", [], "model=5 must be text; put it in quotes."),
        ("workers: 5", [], "workers=5 must be a section"),
        ("task: 5", [], "task=5 must be a section"),
        ("task: {name: [gsm8k]}", [], "task.name=['gsm8k'] must be"),
        ("space: {targets: []}", [], "space.targets is empty; name at least 1, or leave it out"),
        ("space: {targets: q_proj}", [], "space.targets='q_proj' must be a list; write [q_proj]."),
        ("seed: 1\nseed: 2", [], "line 2, column 1: the key 'seed' stands twice; keep one"),
        ("workers:\n  count: 1\n  count: 2", [], "line 3, column 3: the key 'count' stands twice"),
        ("[1, 2]", [], "holds one list; write settings as `key: value` lines"),
        ("task: [", [], "line 1, column 8"),
        ("", ["population"], "override 'population' is not key=value"),
        ("", ["=3"], "override '=3' is not key=value"),
        ("", ["task..name=x"], "override 'task..name=x' is not key=value"),
        ("seed: 3", ["seed.low=1"], "override 'seed.low=1': seed is no section but 3"),
        ("", ["seed=["], "override 'seed=['"),
    ],
)
def test_mistakes_are_named(
    write_config: WriteConfig, text: str, overrides: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(text), overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config("population: 1\ngenerations: 0\nfoo: 1"))
    for key in ("population=1", "generations=0", "foo is no setting"):
        assert key in str(caught.value)


def test_missing_file_names_the_nearest(write_config: WriteConfig, tmp_path: Path) -> None:
    write_config("")
    with pytest.raises(ConfigError, match=r"did you mean .*/config\.yaml\?"):
        load_config(tmp_path / "confg.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"model: caf\xe9")
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 10\)"):
        load_config(path)


def test_every_known_key_is_accepted_and_its_misspelling_suggests_it() -> None:
    for key in known_keys():
        assert suggest_key(f"{key}x") == f"did you mean {key}?"


def test_default_run_dir() -> None:
    assert default_run_dir("configs/tiny.yaml", Config(seed=3)) == Path("runs/tiny-3")
    assert default_run_dir("configs/tiny.yaml", Config(run_dir="here")) == Path("here")


def test_digest_ignores_exactly_what_cannot_change_results() -> None:
    names = set(known_keys())
    assert names >= NOT_IDENTITY
    base = Config()
    same = apply_overrides(base, ["workers.count=4", "workers.chunk_deadline_s=5", "run_dir=x"])
    assert config_digest(same) == config_digest(base)
    assert changed_fields(base, same) == {}
    for override in ("workers.members_per_chunk=16", "seed=1", "task.seed=1", "population=64"):
        other = apply_overrides(base, [override])
        name = override.partition("=")[0]
        assert config_digest(other) != config_digest(base)
        assert list(changed_fields(base, other)) == [name]


def test_a_longer_run_is_the_same_run_unless_a_schedule_goes_over_it() -> None:
    base = Config()
    longer = apply_overrides(base, ["generations=60"])
    assert changed_fields(base, longer) == {}
    for name in ("sigma", "learning_rate"):
        overrides = [f"strategy.{name}_schedule=cosine", f"strategy.{name}_final=0.1"]
        scheduled = apply_overrides(base, overrides)
        stretched = apply_overrides(longer, overrides)
        assert changed_fields(scheduled, stretched) == {"generations": (40, 60)}
        assert config_digest(scheduled) != config_digest(stretched)
        started_without = changed_fields(base, stretched)
        assert set(started_without) == {f"strategy.{name}_schedule", f"strategy.{name}_final"}
        assert set(changed_fields(stretched, base)) == set(started_without)


def test_digest_survives_json() -> None:
    config = apply_overrides(Config(), ["strategy.sigma=1e-3", "space.targets=[q_proj]"])
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert config_digest(again) == config_digest(config)


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


def test_an_objective_is_written_as_it_is_spoken(write_config: WriteConfig) -> None:
    config = load_config(write_config("objective: pass@4\nsamples_per_prompt: 8"))
    assert (config.objective, pass_k(config.objective)) == ("pass@4", 4)
    assert pass_k(Config().objective) is None


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
