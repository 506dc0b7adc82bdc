"""What tests compare of two ledgers."""

import json
from pathlib import Path


def ledger_body(folder: Path) -> list[dict]:
    """Every generation's record, without the chain that starts at the header's random run id."""
    lines = (folder / "ledger.jsonl").read_bytes().splitlines()[1:]
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in ("previous", "checksum")} for row in rows]
