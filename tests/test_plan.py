"""`es-align plan`: sizes, bytes and seconds by arithmetic and simulation, and what it refuses."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from es_align.cli import app
from es_align.config import Config
from es_align.config_loading import load_config
from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError, EsAlignError, ModelError, RunFolderError
from es_align.model_sizes import BUNDLED_SIZES, read_sizes
from es_align.plan import PlanResult, plan
from es_align.plan_memory import member_bytes, moving_layers, weight_bytes, worker_memory
from es_align.plan_speed import GPUS, MAX_SEQUENCES, cpu_engine, lengths_for
from es_align.run_folder import RunFolder

SMOLLM2 = BUNDLED_SIZES["smollm2-135m-instruct"]
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
ROW = {
    "generation": 1,
    "completions": 256,
    "tokens/total": 6400,
    "tokens/prompt": 17_920,
    "time/generate_s": 12.0,
    "time/score_s": 0.5,
    "time/move_s": 0.25,
}


@pytest.fixture
def quickstart(repository: Path) -> Config:
    return load_config(repository / "configs" / "quickstart.yaml")


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[[Mapping[str, object]], str]:
    """Writes a config.json and returns its folder."""

    def write(settings: Mapping[str, object]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return write


def changed(config: Config, **settings: object) -> Config:
    tree = config.model_dump(mode="json")
    for name, value in settings.items():
        section, _, key = name.rpartition("__")
        (tree[section] if section else tree)[key] = value
    return Config.model_validate(tree)


def make_run(folder: Path, config: Config, rows: list[Mapping[str, object]]) -> Path:
    run = RunFolder(folder)
    run.write_config(config)
    run.ledger.touch()
    run.append_rows(run.metrics, rows)
    return folder


def test_a_config_json_says_how_many_parameters_there_are(
    model_folder: Callable[[Mapping[str, object]], str],
) -> None:
    assert read_sizes(model_folder(LLAMA_8B)).num_parameters == 8_030_261_248
    assert read_sizes(model_folder({"text_config": LLAMA_8B})).num_parameters == 8_030_261_248
    assert SMOLLM2.num_parameters == 134_515_008
    assert SMOLLM2.kv_bytes == 2 * 30 * 3 * 64 * 2


@pytest.mark.parametrize("name", list(BUNDLED_SIZES))
def test_bundled_models_have_the_sizes_that_are_written_down(name: str) -> None:
    from es_align.models import find_model, linear_shapes

    folder = find_model(name)
    assert read_sizes(str(folder)) == BUNDLED_SIZES[name] == read_sizes(name)
    matrices = sum(rows * columns for rows, columns in linear_shapes(folder).values())
    norms = BUNDLED_SIZES[name].hidden * (2 * BUNDLED_SIZES[name].num_blocks + 1)
    assert BUNDLED_SIZES[name].num_parameters == matrices + norms


def test_weights_take_what_the_checkpoints_take() -> None:
    megabytes = {p: weight_bytes(SMOLLM2, p) / 1e6 for p in ("fp32", "bf16", "int8", "int4")}
    assert {name: round(size) for name, size in megabytes.items()} == {
        "fp32": 538,
        "bf16": 269,
        "int8": 163,
        "int4": 113,
    }


@pytest.mark.parametrize(("kind", "wanted"), [("singular_values", 6_825), ("weights", 153_981)])
def test_a_member_takes_the_bytes_that_the_benchmark_measured(kind: str, wanted: int) -> None:
    space = SpaceConfig.model_validate({"kind": kind})
    assert round(member_bytes(space, moving_layers(space, SMOLLM2), 64) / 64) == wanted


@pytest.mark.parametrize("kind", ["singular_values", "core", "lora", "weights"])
@pytest.mark.parametrize("targets", [SpaceConfig().targets, ("q_proj", "k_proj", "v_proj")])
def test_tables_that_are_built_take_what_is_planned(kind: str, targets: tuple[str, ...]) -> None:
    import torch

    from es_align.models import find_model
    from es_align.spaces import layers_for
    from workers.population import Population

    space = SpaceConfig.model_validate({"kind": kind, "rank": 3, "targets": targets})
    rank = 1 if kind == "weights" else 3
    layers = layers_for(space.kind, rank, find_model("tiny"), targets)
    population = Population(layers, 10, torch.float32)
    groups: dict[str, list[str]] = {}
    together = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
    for layer in layers:
        stem, _, last = layer.name.rpartition(".")
        groups.setdefault(f"{stem}.{together.get(last, last)}", []).append(layer.name)
    for module, names in groups.items():
        population.hook(module, names)
    moving = moving_layers(space, BUNDLED_SIZES["tiny"])
    assert member_bytes(space, moving, 10) == population.member_bytes


def test_a_mean_of_whole_weights_takes_its_master_and_its_momentum(quickstart: Config) -> None:
    config = changed(quickstart, space={"kind": "weights"})
    memory = worker_memory(config, SMOLLM2, max_members=64)
    assert memory.master == 8 * 106_168_320 + 8 * 576 * 1536
    assert memory.kv_cache == 2**30
    assert memory.total == memory.weights + memory.kv_cache + memory.population + memory.master


def test_an_engine_takes_as_many_sequences_as_are_simulated(repository: Path) -> None:
    source = (repository / "workers" / "engines" / "vllm_engine.py").read_text()
    assert f"MAX_SEQUENCES = {MAX_SEQUENCES}\n" in source


def test_the_cpu_figure_is_the_benchmarks_own() -> None:
    engine = cpu_engine(SMOLLM2, "int8", 2, is_weights=False)
    seconds = engine.seconds(np.full(128, 64), num_prompt_tokens=128 * 32)
    assert 128 * 64 / seconds == pytest.approx(888)
    slower = cpu_engine(SMOLLM2, "int8", 1, is_weights=False)
    assert 128 * 64 / slower.seconds(np.full(128, 64), 128 * 32) == pytest.approx(444)


def test_lengths_are_stretched_to_the_limit_and_have_the_mean_that_is_known() -> None:
    assert lengths_for(320).mean() == pytest.approx(211, abs=0.5)
    assert lengths_for(40).max() == 40
    for mean in (10.0, 25.0, 38.0):
        bent = lengths_for(40, mean)
        assert bent.mean() == pytest.approx(mean, rel=0.02) and 1 <= bent.min() <= bent.max() <= 40


def test_more_workers_than_chunks_stand_idle_and_smaller_chunks_are_recommended(
    quickstart: Config,
) -> None:
    found = plan(quickstart, num_workers=4)
    assert found.completions == 256
    assert (found.configured.num_chunks, found.configured.efficiency) == (1, 0.25)
    assert found.recommended is not None
    assert found.recommended.num_chunks >= 4
    assert found.recommended.seconds < found.configured.seconds / 3
    assert found.speed_kind == "estimated" and "docs/benchmarks.md" in found.speed_origin


def test_one_worker_takes_what_the_quickstart_took(quickstart: Config) -> None:
    """Measured: 14.4 s a generation, evaluations included (README)."""
    found = plan(quickstart, num_workers=1)
    assert found.configured.efficiency == pytest.approx(1)
    assert 11 < found.configured.seconds < 17


def test_a_run_of_the_same_configuration_takes_again_what_it_took(
    quickstart: Config, tmp_path: Path
) -> None:
    warming = {**ROW, "time/generate_s": 90.0}
    run = make_run(tmp_path / "run", quickstart, [warming, ROW, {"eval/reward": 0.5}, ROW])
    found = plan(quickstart, num_workers=1, run=run)
    assert (found.speed_kind, found.speed_origin) == ("measured", f"2 generations of {run}")
    assert found.configured.evaluate_s == pytest.approx(12.5, rel=0.02)
    assert found.configured.move_s == 0.25
    assert found.tokens_per_s_worker == pytest.approx(6400 / 12.5, rel=0.05)
    assert any("25 tokens long on average, prompts 70" in note for note in found.notes)


def test_told_tokens_a_second_are_those_of_a_worker_at_work(quickstart: Config) -> None:
    found = plan(quickstart, num_workers=1, tokens_per_s=1000)
    assert found.tokens_per_s_worker == pytest.approx(1000)
    assert found.configured.tokens_per_s == pytest.approx(1000)
    assert found.speed_kind == "measured"


def test_a_gpu_is_a_roofline_of_its_data_sheet(
    quickstart: Config, model_folder: Callable[[Mapping[str, object]], str]
) -> None:
    config = changed(quickstart, model=model_folder(LLAMA_8B), workers__kv_cache_gb=90)
    h100, h200 = (plan(config, num_workers=2, gpu=name) for name in ("nvidia h100", "H200"))
    assert h100.configured.seconds > h200.configured.seconds
    assert (h100.speed_kind, GPUS["H100"].memory_gb) == ("estimated", 80)
    assert any("do not fit the H100's 80" in note for note in h100.notes)
    assert "an engine holds 1024 sequences at once" in h100.notes  # vLLM's own limit there
    assert not any("do not fit" in note for note in h200.notes)


def test_a_seeded_space_sends_no_vectors_and_a_space_of_vectors_no_moves(
    quickstart: Config,
) -> None:
    seeded = plan(quickstart, num_workers=2).wire_bytes
    assert seeded.vectors == 0
    assert 64 * 4 * 2 < seeded.scores < 64 * 4 * 2 + 64  # verdicts: a byte each, and their values
    assert 300 < seeded.chunks < 400 and seeded.moves > 2 * 32 * 8
    space = {"kind": "singular_values", "rank": 8}
    config = changed(quickstart, space=space, strategy={"sigma": 0.05})
    vectors = plan(config, num_workers=2)
    assert vectors.dimension == 210 * 8
    assert (vectors.wire_bytes.vectors, vectors.wire_bytes.moves) == (64 * 1680 * 4, 0)


def test_chunks_that_grow_small_keep_engines_full_and_workers_busy(quickstart: Config) -> None:
    many = changed(quickstart, population=2048, workers__members_per_chunk=64)
    equal = plan(many, num_workers=8).configured
    found = plan(changed(many, workers__smallest_chunk=8), num_workers=8).configured
    assert (found.members_per_chunk, found.smallest_chunk) == (64, 8)
    assert found.seconds < equal.seconds and found.efficiency > equal.efficiency
    assert found.num_chunks == 16 + 16 + 16 + 32


def test_a_population_too_small_for_the_workers_is_told(quickstart: Config) -> None:
    found = plan(changed(quickstart, workers__members_per_chunk=2), num_workers=40)
    assert found.recommended is None
    assert found.notes[-1] == "a population of 64 has work for 32 workers at most"


def refused(quickstart: Config, error: type[EsAlignError], match: str, **options: object) -> None:
    with pytest.raises(error, match=match):
        plan(quickstart, **options)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_planned_is_told_with_the_next_step(
    quickstart: Config, tmp_path: Path, model_folder: Callable[[Mapping[str, object]], str]
) -> None:
    refused(quickstart, ConfigError, r"--gpu H10O is not known; did you mean H100\?", gpu="H10O")
    refused(quickstart, ConfigError, "--workers 0 must be at least 1", num_workers=0)
    refused(quickstart, ConfigError, "--tokens-per-s -1 must be above 0", tokens_per_s=-1.0)
    refused(quickstart, ConfigError, "give one", tokens_per_s=5.0, run=tmp_path)
    refused(quickstart, RunFolderError, "holds no run", run=tmp_path / "nothing")
    on_gpus = changed(quickstart, workers__gpus=1)
    refused(on_gpus, ConfigError, r"does not say which GPU; name it \(--gpu H100\)")
    small = changed(quickstart, workers__kv_cache_gb=0.001)
    refused(small, ConfigError, r"has room for 46 tokens, and one sequence takes 110; set it to")
    odd = changed(quickstart, workers__members_per_chunk=5)
    refused(odd, ConfigError, "must divide population=64")
    experts = changed(quickstart, model=model_folder({**LLAMA_8B, "num_experts": 64}))
    refused(experts, ModelError, "num_experts=64: mixtures of experts are not planned for")
    other = changed(quickstart, model=model_folder({"hidden_size": 8}))
    refused(other, ModelError, "has no num_attention_heads, so it is no decoder of Llama's kind")
    (tmp_path / "config.json").unlink()
    refused(other, ModelError, "is a folder without config.json")
    hub = changed(quickstart, model="nobody/nothing-1b")
    refused(hub, ModelError, r"put it into a folder and set model to that folder")


def test_a_run_that_says_nothing_of_this_plan_is_refused(
    quickstart: Config, tmp_path: Path
) -> None:
    bf16 = make_run(tmp_path / "a", changed(quickstart, precision="bf16"), [ROW])
    refused(quickstart, ConfigError, "is a run with precision=bf16, and this plan is", run=bf16)
    begun = make_run(tmp_path / "b", quickstart, [{"eval/reward": 0.5}])
    refused(quickstart, RunFolderError, "has no generation in metrics.jsonl", run=begun)
    silent = make_run(tmp_path / "c", quickstart, [{**ROW, "tokens/total": 0}])
    refused(quickstart, RunFolderError, "wrote 0 tokens in 12.5 s", run=silent)


def test_the_command_prints_one_json_object(repository: Path) -> None:
    config = str(repository / "configs" / "quickstart.yaml")
    command = [sys.executable, "-m", "es_align", "plan", config, "--workers", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["workers"], found["completions"], found["parameters"]) == (4, 256, 134_515_008)
    assert found["recommended"]["members_per_chunk"] <= 16


def test_the_command_prints_a_line_a_matter(repository: Path) -> None:
    config = str(repository / "configs" / "quickstart.yaml")
    done = CliRunner().invoke(app, ["plan", config, "--workers", "4"])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert re.search(r"4 workers workers.members_per_chunk=64: 1 chunks, \d+\.\d s a gen", text)
    assert "estimated: SmolLM2-135M in vLLM on 2 cores" in text


def test_an_arm_of_a_comparison_is_planned_like_a_run(repository: Path) -> None:
    config = str(repository / "configs" / "compare-quick.yaml")
    command = [sys.executable, "-m", "es_align", "plan", config, "--arm", "es-int8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["precision"], found["workers"], found["completions"]) == ("int8", 1, 256)


def test_neither_torch_nor_ray_is_imported(repository: Path) -> None:
    code = (
        "import sys; from es_align.config_loading import load_config; from es_align.plan import "
        "plan; plan(load_config('configs/quickstart.yaml'), num_workers=2); "
        "print([name for name in ('torch', 'ray', 'vllm', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout == "[]\n"


def test_a_plan_is_the_same_every_time(quickstart: Config) -> None:
    first, second = plan(quickstart, num_workers=3), plan(quickstart, num_workers=3)
    assert isinstance(first, PlanResult) and first == second
