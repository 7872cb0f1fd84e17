"""Which values lie row by row."""

from __future__ import annotations

from edgeq.ir import ops as o
from edgeq.passes.orders import axes_in_memory, row_values
from tests.quantized import Net


def test_images_and_rows() -> None:
    net = Net(1, 4, 6, 5)
    image = net.apply(net.conv("x", 8, "image"), "relu", "active")
    rows = net.add(o.Transpose(image, "turned", (0, 2, 3, 1)))
    normal = net.add(o.LayerNorm(rows, None, None, "normal", 3, 1e-5))
    hidden = net.apply(net.linear(normal, 6, "hidden"), "gelu", "function")
    product = net.add(o.MatMul(hidden, net.add(o.Transpose(hidden, "swapped", (0, 1, 3, 2))), "product"))
    graph = net.graph(net.add(o.Softmax(product, "shares", 3)), hidden)
    found = row_values(graph, ["x"])
    assert found == {"turned", "normal", "hidden", "function", "swapped", "product", "shares"}
    assert not found & {"x", "image", "active"}
    assert row_values(graph, ["x", "shares"]) == found - {
        "product",
        "shares",
    }  # a port is an image, and so is what lies alike


def test_an_image_that_a_product_reads_stays_one() -> None:
    net = Net(1, 4, 6, 6)
    image = net.conv("x", 4, "image")
    graph = net.graph(net.add(o.MatMul(image, image, "product")))
    assert row_values(graph, ["x"]) == {"product"}


def test_axes() -> None:
    assert axes_in_memory(4) == (0, 2, 3, 1) and axes_in_memory(3) == (0, 1, 2)
