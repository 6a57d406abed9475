"""One file of a shard folder from anywhere: fetched whole, in bounded time, or an error.

A location is a folder here, a URL that fsspec knows (`https://`, `s3://`, ...), or `pipe:` and a
shell command that prints the file `{name}`. fsspec's own file cache is not used: it writes under
the final name and takes no lock, so that another process may see half a file.
"""

import logging
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

from anyscene.errors import ConfigError, InputError

log = logging.getLogger(__name__)

PIPE = "pipe:"
NAME = "{name}"

FETCH_TRIES = 4
FETCH_RETRY_SECONDS = 1.0
"""Wait before the second try; each further one waits four times as long."""

STALL_SECONDS = 30.0
STALL_BYTES = 2**20
"""A try has failed when fewer bytes than these came in so many seconds."""

Result = TypeVar("Result")


def is_remote(location: str) -> bool:
    """Whether a location is a URL or a command, not a folder here."""
    return "://" in location or location.startswith(PIPE)


def check_location(key: str, location: str) -> None:
    """Raises `ConfigError`, naming the configuration key, where nothing could be fetched."""
    if location.startswith(PIPE):
        if NAME not in location:
            raise ConfigError(
                f"{key}={location!r} has no {NAME}: write {NAME} where the command takes the name "
                "of the file that it shall print"
            )
        return
    import fsspec

    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(location)[0])
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{key}={location!r} cannot be read here: {error}") from None


def fetch(
    location: str, name: str, path: Path, check: Callable[[Path], None] = lambda _: None
) -> None:
    """Copy the file `name` of a remote shard folder to `path`, which is whole afterwards.

    `check` raises for a copy that is not what it should be. Any failure is tried again, with
    growing waits; after the last try it is an `InputError`. A file that is not there is a
    `FileNotFoundError` at once.
    """
    failure = ""
    for attempt in range(1, FETCH_TRIES + 1):
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}-{attempt}.part")
        try:
            transfer(location, name, part)
            check(part)
            part.replace(path)
            return
        except FileNotFoundError:
            raise
        except Exception as error:  # each fsspec backend has its own
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failure = f"{name} of {location!r} cannot be fetched: {reason}"
        finally:
            part.unlink(missing_ok=True)
        if attempt < FETCH_TRIES:
            log.warning("%s; try %d of %d", failure, attempt, FETCH_TRIES)
            time.sleep(FETCH_RETRY_SECONDS * 4 ** (attempt - 1))
    raise InputError(f"{failure}; {FETCH_TRIES} tries failed")


def fetch_bytes(location: str, name: str) -> bytes:
    """A small file of a remote shard folder, as `fetch` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        fetch(location, name, path)
        return path.read_bytes()


def transfer(location: str, name: str, part: Path) -> None:
    """One try to copy a file to `part`. Raises TimeoutError where it stalls."""
    if location.startswith(PIPE):
        command = location.removeprefix(PIPE).replace(NAME, shlex.quote(name))
        run_command(command, part)
    else:
        in_thread(lambda: copy_url(f"{location.rstrip('/')}/{name}", part), part)


def copy_url(url: str, part: Path) -> None:
    """Copy the file at a URL that fsspec knows."""
    import fsspec

    file_system, path = fsspec.url_to_fs(url, **url_options(url))
    file_system.get_file(path, str(part))


def list_names(location: str) -> list[str]:
    """The names in a remote folder; [] where it cannot be listed."""
    if location.startswith(PIPE):
        return []
    import fsspec

    def names() -> list[str]:
        file_system, path = fsspec.url_to_fs(location, **url_options(location))
        try:
            entries = file_system.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [entry.rstrip("/").rpartition("/")[2] for entry in entries]

    return in_thread(names)


def url_options(url: str) -> dict[str, Any]:
    """For HTTP, proxies from the environment, and no limit of five minutes on a large file."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def in_thread(call: Callable[[], Result], part: Path | None = None) -> Result:
    """`call()`, left behind in its thread with a TimeoutError where it stalls: see `watch`."""
    result: futures.Future[Result] = futures.Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    watch(lambda seconds: bool(futures.wait([result], seconds).done), part)
    return result.result()


def run_command(command: str, part: Path) -> None:
    """Write what a shell command prints to `part`. Raises OSError where it fails or stalls."""
    with part.open("wb") as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # so that the shell's children are killed with it
        )
        try:
            watch(lambda seconds: _has_ended(process, seconds), part)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise OSError(f"{command!r} ended with status {process.returncode}: {last}")


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def watch(has_ended: Callable[[float], bool], part: Path | None) -> None:
    """Wait, with `has_ended(seconds)`, for something that fills `part`.

    Raises TimeoutError where fewer than `STALL_BYTES` came in `STALL_SECONDS`.
    """
    seen = 0
    while not has_ended(STALL_SECONDS):
        size = part.stat().st_size if part is not None and part.exists() else 0
        if size < seen + STALL_BYTES:
            raise TimeoutError(f"{size - seen} bytes came in {STALL_SECONDS:g} s")
        seen = size
