"""Where the credentials of S3 come from: the environment, or a secret block of the Prefect server.

They are never a parameter, and nothing here writes or logs them. `CROSSROADS_S3_SECRET` names the block, which holds a
JSON object with the names that AWS uses.
"""

from __future__ import annotations

import functools
import os
from typing import Any, cast

from cosmos_core.errors import BadConfig

__all__ = ["VARIABLE", "s3_options"]

VARIABLE = "CROSSROADS_S3_SECRET"
_REQUIRED = ("aws_access_key_id", "aws_secret_access_key")
_OPTIONAL = ("aws_session_token", "endpoint_url", "region_name")


def s3_options() -> dict[str, Any]:
    """Options for s3fs; none where the environment says it all.

    Raises:
        BadConfig: the block is not there, or does not hold what it should.
    """
    name = os.environ.get(VARIABLE)
    return _from_block(name) if name else {}


@functools.lru_cache(maxsize=4)
def _from_block(name: str) -> dict[str, Any]:
    from prefect.blocks.system import Secret

    try:
        value = cast("Secret[Any]", Secret.load(name, _sync=True)).get()  # type: ignore[call-arg]
    except ValueError as error:
        raise BadConfig(
            "there is no such secret block on the Prefect server",
            got=name,
            fix=f"Make it in the UI under Blocks, or correct {VARIABLE}",
        ) from error
    if not isinstance(value, dict) or not set(_REQUIRED) <= set(value) <= {*_REQUIRED, *_OPTIONAL}:
        # Not the content: it is a secret, whatever else is wrong with it.
        raise BadConfig(
            f"the secret block {name} does not hold the credentials of S3",
            got=f"the names {', '.join(sorted(value))}" if isinstance(value, dict) else "no JSON object",
            expected=f"a JSON object with {', '.join(_REQUIRED)}, and {', '.join(_OPTIONAL)} where they are needed",
        )
    client = {field: value[field] for field in ("endpoint_url", "region_name") if value.get(field)}
    return {
        "key": value["aws_access_key_id"],
        "secret": value["aws_secret_access_key"],
        "token": value.get("aws_session_token"),
        "client_kwargs": client,
    }
