"""A run that has been begun and has no generation yet."""

from es_align.config import Config
from es_align.models import ModelPaths
from es_align.run_folder import RunFolder
from es_align.session import begin_run
from es_align.tasks import make_task


def begin(folder: RunFolder, config: Config, model: ModelPaths) -> None:
    """Write what `es-align train` writes before it starts workers."""
    task = make_task(config.task, seed=config.seed, prompts_per_generation=1)
    begin_run(folder, config, model, task).close()
