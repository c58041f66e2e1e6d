"""The table of conversions as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator

from packhorse_host.convert.building import PYTHON_VARIABLE, PYTHON_VERSION
from packhorse_host.convert.convert import FIDELITY_MIN_DB
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.table import RUNTIMES, SOURCES, TABLE, Cell, Refused, Works

_HEAD = f"""\
<!-- Made by scripts/generate from host/packhorse_host/convert/table.py. Do not edit. -->
# Conversions

From each kind of source to each runtime. A cell works, or is refused with the reason and the nearest way that
works. Whatever a tool makes is held against the source's own answers on one made-up input: below
{FIDELITY_MIN_DB:.0f} dB it is refused.

`packhorse pack` tells the kind of a source by its content. Weights in a `.pth` need `--class FILE.py:NAME`, a
class or function that makes the network when it is called with nothing; a module in Python is given as
`FILE.py:NAME` itself. Both need each input as `--input NAME:DATATYPE:LENGTHS`, such as
`image:FP32:*,3,224,224`; so does an ONNX model with a free axis besides the batch, where it is converted.
`--load-pickle` loads a file that holds a whole Python object, and so runs whatever code is in it, inside the
tool environment. The order of the profile's runtimes decides which is packed for, among those that the source
is converted for; `--runtime` names one.

Converters whose pins fight live in tool environments: virtual environments of Python {PYTHON_VERSION} that
are built once per machine, from lock files with hashes, in `packhorse/tools` of the user's cache folder
(`XDG_CACHE_HOME`). `{PYTHON_VARIABLE}` names a Python where none is found. The lock of `torch` takes
PyTorch's build for CPUs, which lies in PyTorch's own index: set `PIP_EXTRA_INDEX_URL` to that index of CPU
wheels, or `PIP_FIND_LINKS` to a folder that holds the wheel. `packhorse[litert-pack]` is what the host itself
needs for LiteRT.
"""


def conversions_page() -> str:
    """docs/reference/conversions.md."""
    return "\n".join([_HEAD, *_overview(), "", *_details(), "", *_environments(), ""])


def _overview() -> Iterator[str]:
    yield "| source | " + " | ".join(RUNTIMES) + " |"
    yield "|---" * (len(RUNTIMES) + 1) + "|"
    for kind, title in SOURCES.items():
        cells = [_mark(TABLE[kind, runtime]) for runtime in RUNTIMES]
        yield f"| {title} | " + " | ".join(cells) + " |"


def _mark(cell: Cell) -> str:
    return "works" if isinstance(cell, Works) else "–"


def _details() -> Iterator[str]:
    for kind, title in SOURCES.items():
        yield f"## {title}\n"
        yield "| runtime | how, or why not | tool environments |"
        yield "|---|---|---|"
        for runtime in RUNTIMES:
            yield _detail(runtime, TABLE[kind, runtime])
        yield ""


def _detail(runtime: str, cell: Cell) -> str:
    if isinstance(cell, Refused):
        return f"| {runtime} | refused: {cell.reason}. Instead: {cell.instead} | |"
    return f"| {runtime} | {cell.how} | {', '.join(cell.environments)} |"


def _environments() -> Iterator[str]:
    yield "## Tool environments\n"
    yield "| name | disk | what is in it |"
    yield "|---|---|---|"
    for environment in ENVIRONMENTS.values():
        wanted = (line for line in environment.lock.read_text().splitlines() if "==" in line)
        pins = [line.split(" ")[0] for line in wanted]
        named = [pin for pin in pins if pin.split("==")[0] in environment.tools]
        yield f"| {environment.name} | {environment.disk_bytes / 1e9:.1f} GB | {', '.join(named)} |"
