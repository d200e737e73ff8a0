from jaxpress.viz.model import Box, Cluster, Picture


def test_boxes_and_clusters_are_found_however_deep() -> None:
    a, b, c = (Box(name, "op", name) for name in "abc")
    inner = Cluster("i", "inner", "scope", (b,))
    outer = Cluster("o", "outer", "scope", (inner, c))
    picture = Picture("t", "", (a, outer), ())
    assert [box.id for box in picture.boxes()] == ["a", "b", "c"]
    assert [cluster.id for cluster in picture.clusters()] == ["o", "i"]
    assert [box.id for box in outer.boxes()] == ["b", "c"]
