import dataclasses

from jaxpress.viz.columns import LONG, MAX_COLUMNS, box_rows, split_columns
from jaxpress.viz.model import Box, Cluster, Edge, Picture


def line(n: int, *, extra: tuple[Edge, ...] = ()) -> Picture:
    boxes = tuple(Box(f"n{i}", "op", f"op {i}") for i in range(n))
    edges = tuple(Edge(f"n{i}", f"n{i + 1}") for i in range(n - 1))
    return Picture("line", "", boxes, edges + extra)


def ids(columns) -> list[list[str]]:
    return [[b.id for b in Cluster("", "", "", tuple(c)).boxes()] for c in columns]


def test_rows_count_from_the_farthest_source() -> None:
    boxes = [Box(name, "op", name) for name in "abcd"]
    edges = (Edge("a", "b"), Edge("b", "c"), Edge("a", "c"), Edge("c", "a", kind="again"))
    assert box_rows(boxes, edges) == {"a": 0, "b": 1, "c": 2, "d": 0}


def test_a_short_picture_is_one_column() -> None:
    picture = line(LONG)
    assert split_columns(picture) == [list(picture.members)]


def test_a_long_line_is_set_in_even_columns_in_order() -> None:
    picture = line(60)
    columns = ids(split_columns(picture))
    assert 2 <= len(columns) <= MAX_COLUMNS
    assert [box for column in columns for box in column] == [b.id for b in picture.boxes()]
    sizes = [len(column) for column in columns]
    assert max(sizes) <= 2 * min(sizes)


def test_a_very_long_line_has_no_more_columns_than_a_page() -> None:
    assert len(split_columns(line(2000))) == MAX_COLUMNS


def test_a_cut_is_made_where_few_edges_cross() -> None:
    around = tuple(Edge(f"n{i}", f"n{j}") for i in range(15, 30) for j in range(i + 2, 31))
    around += tuple(Edge(f"n{i}", f"n{j}") for i in range(31, 45) for j in range(i + 2, 46))
    columns = ids(split_columns(line(60, extra=around)))
    starts = [column[0] for column in columns[1:]]
    assert starts
    assert all(int(s[1:]) in (*range(16), 31, *range(46, 60)) for s in starts)


def test_a_picture_that_hangs_together_everywhere_is_not_cut() -> None:
    everything = tuple(Edge(f"n{i}", f"n{j}") for i in range(59) for j in range(i + 2, 60))
    assert len(split_columns(line(60, extra=everything))) == 1


def test_a_frame_is_cut_only_where_it_must_be_and_says_that_it_continues() -> None:
    picture = line(60)
    boxes = picture.members
    framed = dataclasses.replace(
        picture, members=(Cluster("k", "all", "scope", boxes[:50]), *boxes[50:])
    )
    columns = split_columns(framed)
    labels = [m.label for c in columns for m in c if isinstance(m, Cluster)]
    assert labels[0] == "all"
    assert len(labels) > 1
    assert set(labels[1:]) == {"all (continued)"}
    names = [m.id for c in columns for m in c if isinstance(m, Cluster)]
    assert len(set(names)) == len(names)
    assert [b for c in ids(columns) for b in c] == [b.id for b in picture.boxes()]


def test_a_cut_rather_falls_between_frames() -> None:
    picture = line(60)
    boxes = picture.members
    frames = tuple(Cluster(f"k{i}", str(i), "scope", boxes[10 * i : 10 * i + 10]) for i in range(6))
    columns = split_columns(dataclasses.replace(picture, members=frames))
    assert len(columns) > 1
    assert all(not m.label.endswith("(continued)") for c in columns for m in c)


def test_an_argument_stands_where_it_is_first_used() -> None:
    picture = line(60)
    boxes = (Box("mask", "input", "mask"), *picture.members)
    edges = (Edge("mask", "n58"), Edge("mask", "n55"), *picture.edges)
    columns = ids(split_columns(dataclasses.replace(picture, members=boxes, edges=edges)))
    assert "mask" in columns[-1]
    assert "n55" in columns[-1]
