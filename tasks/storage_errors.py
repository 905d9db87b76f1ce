"""What stores raise, in our own tree; and another attempt where it may pass.

Wrong requests (no permission, no credentials, no such bucket) end at once. Everything else is tried again after a pause
that doubles, with jitter, so that many workers do not come back at the same moment.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cosmos_core.errors import BadConfig, StorageUnavailable
from tasks.manifest_source import without_credentials

__all__ = ["retried", "translated"]

_T = TypeVar("_T")
_MAX_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.25
_CLIENTS = frozenset({"botocore", "aiobotocore", "aiohttp"})
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what a file system raises into our own tree; `FileNotFoundError` and `FileExistsError` stay what they are.

    Raises:
        BadConfig: the request is wrong and stays wrong.
        StorageUnavailable: the store did not answer, or refused for a reason that may pass.
    """
    try:
        yield
    except PermissionError as error:
        raise BadConfig("no permission", got=uri, fix="Check the credentials in the environment") from error
    except (FileNotFoundError, FileExistsError):
        raise
    except (OSError, TimeoutError) as error:
        raise _unavailable(uri, error) from error
    except Exception as error:
        # botocore's errors share no base with the standard library, and importing it here would tie every local
        # run to it.
        if type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
            raise BadConfig("no credentials", got=uri, fix="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        raise _unavailable(uri, error) from error


def retried(uri: str, action: Callable[[], _T], *, attempts: int = _MAX_ATTEMPTS) -> _T:
    """The result of an action on a store, tried again while what it raises may pass.

    Raises:
        BadConfig, StorageUnavailable: see `translated`.
    """
    for attempt in range(1, attempts + 1):
        try:
            with translated(uri):
                return action()
        except StorageUnavailable as error:
            if attempt == attempts:
                raise
            pause_s = _FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            _log.warning("%s; attempt %d of %d follows in %.1f s", error, attempt + 1, attempts, pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _unavailable(uri: str, error: BaseException) -> StorageUnavailable:
    what = without_credentials(f"{type(error).__name__}: {error}")
    return StorageUnavailable(f"{uri} did not answer", got=what)
