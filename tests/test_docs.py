"""The documentation is what the code does: generated pages, the README's example, every block."""

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from command_line import Run
from command_line import run as run  # a fixture

from jaxpress import nnops
from jaxpress.cli_app import make_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
MEND = "run: python docs/generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Language and content of each code block."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if language in languages]


def test_the_page_of_passes(generate: ModuleType) -> None:
    assert (ROOT / "docs" / "passes.md").read_text() == generate.passes_page(), MEND


def test_every_rule_says_what_it_rewrites(generate: ModuleType) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (\w+) \|$", generate.passes_page(), re.MULTILINE)
    assert len(rows) > 30
    assert [name for name, text, _ in rows if not text] == []
    assert {values for *_, values in rows} <= set(generate.NUMERICS)


def test_the_page_of_commands(generate: ModuleType) -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == generate.cli_page(), MEND


def test_the_page_of_layers(generate: ModuleType) -> None:
    assert (ROOT / "docs" / "recognition.md").read_text() == generate.recognition_page(), MEND


@pytest.mark.parametrize("command", ["demo", "show", "optimize", "render", "doctor"])
def test_the_page_of_commands_has_what_help_has(run: Run, command: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text().split(f"## jaxpress {command}\n")[1]
    section = page.split("\n## ")[0]
    offered = set(re.findall(r"--[a-z]+", run(command, "--help").out)) - {"--help"}
    assert offered == set(re.findall(r"`(--[a-z]+)`", section))


def test_commands_are_all_on_the_page() -> None:
    group = typer.main.get_command(make_app())
    page = (ROOT / "docs" / "cli.md").read_text()
    assert re.findall(r"^## jaxpress (\w+)", page, re.MULTILINE) == list(group.commands)  # type: ignore[attr-defined]


def test_the_readme_shows_the_example_and_its_output(generate: ModuleType) -> None:
    shown = README.split("<!-- example -->")[1].split("<!-- end of example -->")[0]
    (_, code), (_, output) = blocks(shown, "python", "text")
    assert code == generate.EXAMPLE.read_text(), MEND
    real, picture = generate.run_example()
    assert generate.without_varying(output.strip()) == generate.without_varying(real.strip()), MEND
    errors = [float(e) for e in re.findall(r"\d\.\de-\d+", real)]
    assert errors and max(errors) < 1e-4
    drawn = generate.words(picture)
    assert "conv 3×3" in drawn and generate.words(generate.PICTURE.read_text()) == drawn, MEND


def run_blocks(text: str) -> int:
    """Runs Python blocks in one module; a text block is what the block above it prints."""
    names: dict[str, object] = {"__name__": "page"}
    printed, count = "", 0
    for language, code in blocks(text, "python", "text"):
        if language == "text":
            assert printed.strip() == code.strip()
            continue
        stdout = io.StringIO()
        with contextlib.redirect_stdout(stdout):
            exec(compile(code, "page", "exec"), names)
        printed, count = stdout.getvalue(), count + 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "blocks"), [("writing-a-rule", 8), ("graphs", 4), ("frameworks", 6), ("masks", 4)]
)
def test_pages_run(page: str, blocks: int) -> None:
    assert run_blocks((ROOT / "docs" / f"{page}.md").read_text()) >= blocks


@pytest.fixture
def ops_of_its_own() -> Iterator[None]:
    """What a page defines is gone after it."""
    before = set(nnops.ops)
    yield
    for name in set(nnops.ops) - before:
        del nnops.ops[name]


def test_the_page_on_ops_runs(ops_of_its_own: None) -> None:
    page = (ROOT / "docs" / "adding-an-op.md").read_text()
    assert run_blocks(page) == 5
    (_, code), *_ = blocks(page, "python")
    assert len([line for line in code.split("\n\n\n", 1)[1].splitlines() if line]) < 25


def test_the_page_on_recurrent_layers_runs() -> None:
    assert run_blocks((ROOT / "docs" / "recurrent.md").read_text()) == 3


@pytest.mark.slow
def test_the_readme_s_rule_runs() -> None:
    assert run_blocks(README.split("## How passes work")[1].split("\n## ")[0]) == 1


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_are_shown_or_told(example: Path) -> None:
    """An example that no page names is one that nobody finds."""
    assert any(example.name in (ROOT / page).read_text() for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for named in re.findall(
        r"`((?:capture|nnops|passes|viz|jaxpress|docs|tests|benchmarks|examples)/[\w./]+)`", text
    ):
        assert (ROOT / named).exists(), f"{page} names {named}"


def test_the_readme_s_commands_run(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    section = README.split("The same from a shell.")[1].split("\n## ")[0]
    ((_, commands),) = blocks(section, "sh")
    for line in commands.replace("--bench", "--bench --blocks 2").splitlines():
        words = line.split()
        if words[1] == "render" and importlib.util.find_spec("pygraphviz") is None:
            continue
        done = run(*words[1:])
        assert done.code == 0, done.err
        if words[1] == "show":
            assert "batch_norm" not in done.out and "conv" in done.out
