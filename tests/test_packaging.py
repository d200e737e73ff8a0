"""pyproject.toml, the README and .ci/run agree with the tree and with each other."""

import importlib
import os
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def shell_lines(markdown: str) -> list[str]:
    """The lines of every `sh` code block."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_readme_gives_the_test_command_that_ci_runs() -> None:
    script = (ROOT / ".ci/run").read_text()
    (command,) = re.findall(r"^readme_command='(.*)'$", script, re.MULTILINE)
    assert 'eval "$readme_command"' in script
    assert command in shell_lines((ROOT / "README.md").read_text())


def test_readme_gives_a_demo_command() -> None:
    lines = shell_lines((ROOT / "README.md").read_text())
    assert any(".[demo]" in line and line.endswith("jaxpress demo") for line in lines)


@pytest.mark.parametrize("script", [".ci/run", ".ci/typecheck"])
def test_scripts_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_every_code_folder_is_packaged() -> None:
    """setuptools finds no sub-package by itself below a mapped folder, and leaves it out."""
    mapped = SETUPTOOLS["package-dir"]
    assert sorted(mapped) == sorted(SETUPTOOLS["packages"])
    tops = {path.partition("/")[0] for path in mapped.values()}
    holding_code = {
        path.parent.relative_to(ROOT).as_posix()
        for top in tops
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(mapped.values()) == holding_code
    for package, folder in mapped.items():
        assert (ROOT / folder / "__init__.py").is_file()
        assert package == "jaxpress" or package == "jaxpress." + folder.replace("/", ".")


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_package_imports_from_its_folder(package: str) -> None:
    folder = ROOT / SETUPTOOLS["package-dir"][package]
    assert importlib.import_module(package).__file__ == str(folder / "__init__.py")


def test_installed_version_is_the_declared_one() -> None:
    assert version("jaxpress") == PROJECT["version"]


def test_changelog_has_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["version"] in headings


def test_command_line_entry_point_exists() -> None:
    module, _, function = PROJECT["scripts"]["jaxpress"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_torch_stays_out_of_newer_pythons() -> None:
    """Its pinned wheel is for Python 3.11, and an extra that cannot install helps nobody."""
    everything = [
        Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines
    ]
    torch = [requirement for requirement in everything if requirement.name == "torch"]
    assert torch
    for requirement in torch:
        assert requirement.marker is not None
        assert requirement.marker.evaluate({"python_version": "3.11"})
        assert not requirement.marker.evaluate({"python_version": "3.13"})


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_extras_refer_to_extras_that_exist(extra: str) -> None:
    """pip only warns about an unknown one, and installs less than was asked for."""
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == "jaxpress":
            assert requirement.extras <= PROJECT["optional-dependencies"].keys()
