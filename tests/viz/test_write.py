import os
import stat
import sys
from pathlib import Path

import pytest

from jaxpress.viz.errors import OutputError, RendererNotFound, RenderError
from jaxpress.viz.write import layout, write_file

DOT = "digraph { a -> b }"


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_engine_that_is_there_draws_each_format(suffix: str, start: bytes) -> None:
    assert layout(DOT, suffix).startswith(start)


def no_program(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))


def test_without_a_program_the_library_draws(monkeypatch, tmp_path) -> None:
    no_program(monkeypatch, tmp_path)
    assert b"<svg" in layout(DOT, "svg")


def test_without_any_engine_the_error_says_what_to_install(monkeypatch, tmp_path) -> None:
    no_program(monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(RendererNotFound, match=r'pip install "jaxpress\[graphviz\]"'):
        layout(DOT, "svg")


def fake_dot(folder: Path, script: str) -> None:
    program = folder / "dot"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a #! line")
def test_a_program_on_the_path_is_preferred(monkeypatch, tmp_path) -> None:
    fake_dot(tmp_path, "import sys; print(sys.argv[1:], sys.stdin.read())")
    no_program(monkeypatch, tmp_path)
    answer = layout(DOT, "svg").decode()
    assert "-Tsvg" in answer
    assert "a -> b" in answer


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a #! line")
def test_a_program_that_fails_is_an_error_of_ours(monkeypatch, tmp_path) -> None:
    fake_dot(tmp_path, "import sys; sys.stdin.read(); sys.exit('no such thing')")
    no_program(monkeypatch, tmp_path)
    with pytest.raises(RenderError, match="could not draw"):
        layout(DOT, "svg")


def test_text_that_is_no_graph_is_an_error_of_ours(monkeypatch, tmp_path) -> None:
    no_program(monkeypatch, tmp_path)
    with pytest.raises(RenderError, match="could not draw"):
        layout("digraph { a -> ", "svg")


def test_a_file_is_written_and_replaced(tmp_path) -> None:
    path = tmp_path / "a.dot"
    write_file(path, b"one")
    write_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.dot"]


def test_a_link_stays_a_link(tmp_path) -> None:
    real, link = tmp_path / "real.dot", tmp_path / "link.dot"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_file(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_a_missing_folder_and_a_folder_in_place_of_a_file(tmp_path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*no.a\.svg"):
        write_file(tmp_path / "no" / "a.svg", b"x")
    (tmp_path / "b.svg").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_file(tmp_path / "b.svg", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        write_file(tmp_path / "file" / "a.svg", b"x")
    assert sorted(os.listdir(tmp_path)) == ["b.svg", "file"]


@pytest.mark.parametrize("step", ["replace", "write"])
def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(
    monkeypatch, tmp_path, step
) -> None:
    path = tmp_path / "a.svg"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    if step == "replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        real = open

        def full(name, mode="r", *args, **kwargs):
            file = real(name, mode, *args, **kwargs)
            if "x" in mode:
                file.close()
                fail()
            return file

        monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OutputError, match="No space left"):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.svg"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write_file(tmp_path / "a.svg", b"x")
    finally:
        tmp_path.chmod(0o700)


def test_a_name_as_long_as_names_may_be(tmp_path) -> None:
    path = tmp_path / ("n" * 250 + ".dot")
    write_file(path, b"x")
    assert path.read_bytes() == b"x"
