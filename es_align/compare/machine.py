"""What a job ran on, told with its figures: a resume may go on with another machine."""

import datetime
from collections.abc import Mapping

from es_align.bench.hardware import find_hardware
from es_align.compare.records import Machine


def this_machine(num_devices: float, versions: Mapping[str, str]) -> Machine:
    """Today, here, with so many GPUs or cores."""
    return Machine(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=str(find_hardware()),
        versions=versions,
        num_devices=num_devices,
    )
