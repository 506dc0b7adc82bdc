"""JSON that satisfies a schema (JSON Schema, by the library jsonschema).

Schemas hold regular expressions, so this reward runs in a process that can be killed
(`rewards.processes`). References lead into the schema itself only: nothing is fetched.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NoReturn, Protocol

from kernels.errors import ConfigError
from rewards.base import Columns, JsonValue, Score
from rewards.columns import mapping_column

FORMAT_REWARD = 0.1
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


class _Validator(Protocol):
    def iter_errors(self, instance: JsonValue) -> Iterable[object]: ...


def json_schema_reward(
    completion: str, columns: Columns, *, schema: dict[str, object] | None = None
) -> Score:
    """1 if the completion, or its last fenced block, is JSON that satisfies the schema (option, or
    the column `schema`); JSON that does not gets `FORMAT_REWARD`.

    Reasons: ok, invalid, not_json, empty. Raises ConfigError for a schema that is none, DataError
    if there is neither option nor column.
    """
    chosen: Mapping[str, object] = mapping_column(columns, "schema") if schema is None else schema
    validator = make_validator(json.dumps(chosen))
    if not completion.strip():
        return Score(0.0, False, {"is_json": 0.0}, "empty")
    fenced = _FENCED.findall(completion)
    try:
        value = json.loads(fenced[-1] if fenced else completion, parse_constant=_refuse)
    except (ValueError, RecursionError):  # a number too long is a ValueError, depth the other
        return Score(0.0, False, {"is_json": 0.0}, "not_json")
    is_valid = next(iter(validator.iter_errors(value)), None) is None
    reward = 1.0 if is_valid else FORMAT_REWARD
    return Score(reward, is_valid, {"is_json": 1.0}, "ok" if is_valid else "invalid")


@lru_cache(256)
def make_validator(schema: str) -> _Validator:
    """What checks values against a schema in JSON; ConfigError if it is no schema."""
    # Imported on first use: no other reward needs it.
    import jsonschema
    import referencing
    from jsonschema.validators import validator_for

    read = json.loads(schema)
    kind = validator_for(read, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(read)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise ConfigError(
            f"the schema is no JSON Schema: {error.message:.200} (at {where}); correct it"
        ) from error
    return kind(read, registry=referencing.Registry())


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
