"""Write lock files with hashes for the tool environments; `scripts/lock_tools` sets up the Python for it.

pip resolves, and its installation report says which file it took from where. A requirement that ends in
`# alone` is taken without its dependencies.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

ALONE = "# alone"
HEAD = """\
# Made by scripts/lock_tools from {name}.in: Python 3.11, Linux, x86_64. Do not edit.
"""


def resolved(requirements: list[str], *options: str) -> list[dict[str, Any]]:
    """What pip would install: entries of its installation report."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--only-binary", ":all:", "--report", "-", *options, *requirements]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(answer.stdout)
    install: list[dict[str, Any]] = report["install"]
    return install


def sha256_of(entry: dict[str, Any]) -> str:
    """The digest of the wheel that an entry names; pip leaves it out for a file on this machine's disk."""
    info = entry["download_info"]
    known = info.get("archive_info", {}).get("hashes", {}).get("sha256")
    if known:
        return str(known)
    path = Path(urllib.parse.unquote(urllib.parse.urlparse(info["url"]).path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def locked(source: Path) -> str:
    """The lock file for a file of requirements."""
    lines = [line.strip() for line in source.read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    plain = [line for line in wanted if ALONE not in line]
    alone = [line.split("#")[0].strip() for line in wanted if ALONE in line]
    entries = resolved(plain) + (resolved(alone, "--no-deps") if alone else [])
    pins = {
        f"{entry['metadata']['name'].lower().replace('_', '-')}=={entry['metadata']['version']}": sha256_of(
            entry
        )
        for entry in entries
    }
    text = "".join(f"{pin} \\\n    --hash=sha256:{digest}\n" for pin, digest in sorted(pins.items()))
    return HEAD.format(name=source.stem) + text


def main() -> None:
    folder, *names = sys.argv[1:]
    sources = sorted(Path(folder).glob("*.in"))
    for source in sources:
        if not names or source.stem in names:
            target = source.with_name(f"{source.stem}-cp311.txt")
            target.write_text(locked(source))
            print(target.name)


if __name__ == "__main__":
    main()
