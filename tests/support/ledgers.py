"""What tests compare of two ledgers."""

import json
from pathlib import Path


def ledger_body(folder: Path) -> list[dict]:
    """Every whole record of a generation, without the chain that starts at the header's random run
    id. A driver that is killed may leave a part of one after them."""
    lines = (folder / "ledger.jsonl").read_bytes().split(b"\n")[1:-1]
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in ("previous", "checksum")} for row in rows]
