"""What every package promises. That imports point down is checked by `make check` (lint-imports), not here."""

import importlib
import pkgutil
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("gateway", "mcp_server", "swarm", "runtime", "storage")
MEANINGLESS = {"utils", "util", "helpers", "helper", "common", "misc", "base_manager"}


def packages() -> list[str]:
    """Return the name of every package, the layers themselves included."""
    found: list[str] = [*LAYERS]
    for layer in LAYERS:
        walked = pkgutil.walk_packages([str(ROOT / layer)], f"{layer}.")
        found += [module.name for module in walked if module.ispkg]
    return found


@pytest.mark.parametrize("name", packages())
def test_what_a_package_exports_exists_and_is_sorted(name: str) -> None:
    package = importlib.import_module(name)
    exported = exports_of(package)
    assert exported == sorted(set(exported)), "sorted, without repetition"
    missing = [export for export in exported if not hasattr(package, export)]
    assert not missing


def exports_of(package: types.ModuleType) -> list[str]:
    assert "__all__" in vars(package), "an __init__ says what it exports, even if that is nothing"
    return list(package.__all__)


@pytest.mark.parametrize("layer", [*LAYERS, "migrations"])
def test_a_package_is_typed(layer: str) -> None:
    assert (ROOT / layer / "py.typed").is_file()


def test_no_directory_of_modules_is_without_an_init() -> None:
    places = {path.parent for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    assert [place for place in places if not (place / "__init__.py").is_file()] == []


def test_every_module_is_named_after_what_it_holds() -> None:
    modules = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    assert len(modules) > 50
    assert [path for path in modules if path.stem in MEANINGLESS or path.stem.endswith("_v2")] == []
