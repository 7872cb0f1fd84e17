"""torchvision and timm import without torch's compiler, and use it afterwards as if they had imported it."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_of_timm_is_built_without_the_compiler_which_answers_afterwards() -> None:
    run(
        "import sys; from edgeq.frontend.architecture import build; build('timm:mobilenetv2_050');"
        "assert 'torchvision' in sys.modules and 'torch._dynamo' not in sys.modules;"
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported;"
        "found = [asked('cpu'), asked('meta')]; from torch._dynamo import utils;"
        "assert found == [utils.is_compile_supported(d) for d in ('cpu', 'meta')] and not found[1], found;"
        "import torch; assert torch.compiler.disable.__module__ == 'torch.compiler'"
    )


def test_what_timm_keeps_from_the_compiler_is_kept_from_it() -> None:
    run(
        "import torch; from edgeq.frontend.compiler_later import compiler_later\n"
        "graphs = []\n"
        "def backend(graph, inputs): graphs.append(graph.code); return graph.forward\n"
        "with compiler_later():\n"
        "    class Net(torch.nn.Module):\n"
        "        @torch.compiler.disable\n"
        "        def hidden(self, x): return x.cos()\n"
        "        def seen(self, x): return x.tan()\n"
        "        def forward(self, x): return self.seen(self.hidden(x.sin()))\n"
        "x = torch.rand(3); found = torch.compile(Net(), backend=backend)(x)\n"
        "assert torch.equal(found, x.sin().cos().tan())\n"
        "text = ''.join(graphs); assert 'sin' in text and 'tan' in text and 'cos' not in text, text\n"
    )


def test_whatever_else_is_asked_of_the_compiler_is_its_own() -> None:
    run(
        "import sys; from edgeq.frontend.compiler_later import compiler_later\n"
        "with compiler_later():\n"
        "    from torch._dynamo.utils import counters\n"
        "from torch._dynamo import utils; assert counters is utils.counters\n"
        "with compiler_later():\n"
        "    assert sys.modules['torch._dynamo.utils'] is utils\n"
    )
