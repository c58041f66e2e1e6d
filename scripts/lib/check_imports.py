"""Import every module of the named packages, and say which cannot be imported.

Run where only an extra is installed: a module that needs more at import time fails here, not in the field.
`--only-needs MODULE=NAME` allows a module to lack that one name and nothing else: a runtime's own module is
imported only where its runtime is.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys


def module_names(package_name: str) -> list[str]:
    """The package and all its modules, but those that run when they are imported."""
    package = importlib.import_module(package_name)
    found = pkgutil.walk_packages(package.__path__, f"{package_name}.")
    return [package_name, *(module.name for module in found if not module.name.endswith(".__main__"))]


def problem_with(name: str, only_needs: str | None) -> str | None:
    """Why a module cannot be imported; None when it can, or lacks only what it may lack."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return None if only_needs and error.name == only_needs else repr(error)
    except Exception as error:
        return repr(error)
    return None


def main() -> int:
    """Import all; exit code 1 when any fails."""
    parser = argparse.ArgumentParser(description="Import every module of the named packages.")
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--only-needs", metavar="MODULE=NAME", action="append", default=[])
    options = parser.parse_args()
    may_lack = dict(pair.split("=", 1) for pair in options.only_needs)
    names = [name for package in options.packages for name in module_names(package)]
    problems = {name: problem_with(name, may_lack.get(name)) for name in names}
    failed = {name: problem for name, problem in problems.items() if problem}
    for name, problem in failed.items():
        print(f"{name}: {problem}", file=sys.stderr)
    print(f"{len(names) - len(failed)} of {len(names)} modules can be imported")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
