"""Import every module of the packages named on the command line, and say which cannot be imported.

Run where only an extra is installed: a module that needs more at import time fails here, not in the field.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys


def module_names(package_name: str) -> list[str]:
    """The package and all its modules, but those that run when they are imported."""
    package = importlib.import_module(package_name)
    found = pkgutil.walk_packages(package.__path__, f"{package_name}.")
    return [package_name, *(module.name for module in found if not module.name.endswith(".__main__"))]


def main(package_names: list[str]) -> int:
    """Import all; exit code 1 when any fails."""
    failed = 0
    for name in [name for package in package_names for name in module_names(package)]:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr)
            failed += 1
    print(f"{failed} modules cannot be imported" if failed else "all modules can be imported")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
