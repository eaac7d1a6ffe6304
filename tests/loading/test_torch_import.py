"""Torch without what only compilers need: until that is used, and then as if imported plainly."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from functools import cache, partial
from pathlib import Path

import pytest

from rbee_worker.config import Settings
from rbee_worker.loading import torch_import
from rbee_worker.loading.torch_import import LATER
from rbee_worker.process.host import ProcessHost
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Request
from tests.engine.tiny import write_tiny

ROOT = Path(__file__).parents[2]
QUICK = f"""
from rbee_worker.loading import torch_import
torch_import.import_torch()
assert all(type(sys.modules[n]).__name__ == "_Empty" for n in {tuple(LATER)})
"""
# Each prints what it found. `shown` is defined before.
USES = {
    "an attribute": "shown(torch.export.Dim('n').__name__, torch._decomp.core_aten_decompositions)",
    "a name": "from torch import export; shown(export.Dim('n').__name__)",
    "a name of one": "from torch._refs import broadcast_shapes; shown(broadcast_shapes((2, 1), 3))",
    "a submodule": "import torch._refs.linalg; shown(torch._refs.linalg.norm(torch.ones(4)))",
    "a submodule's name": (
        "from torch._decomp.decompositions import mse_loss\n"
        "shown(mse_loss, mse_loss(torch.ones(2), torch.zeros(2)))"
    ),
    "references": "shown(torch._refs.add(torch.ones(2), 3), torch._refs.linalg)",
    "tables": (
        "tables = torch._decomp.global_decomposition_table\n"
        "shown({kind: sorted(map(str, table)) for kind, table in tables.items()})"
    ),
    "primitives": "shown(torch.ops.prims.add(torch.ones(2), torch.ones(2)))",
    "higher order": "shown(torch.ops.higher_order.cond)",
    "exporting": (
        "exported = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))\n"
        "shown(exported.graph)"
    ),
    "the compiler": "import torch._dynamo; shown(torch._dynamo.is_compiling())",
    "compiling": (
        "double = torch.compile(lambda x: 2 * x, backend='eager')\nshown(double(torch.ones(2)))"
    ),
    "meta": "a = torch.ones(3, device='meta'); shown(torch.dot(a, a), a + a)",
    "to meta": (
        "a = torch.ones(3, 4).T.to('meta'); shown(a.stride(), torch.nonzero_static(a, size=2))"
    ),
    "on meta": (
        "with torch.device('meta'):\n"
        "    layer = torch.nn.Conv2d(3, 5, 3)\n"
        "shown(layer(torch.empty(1, 3, 9, 9, device='meta')).shape)"
    ),
    "fake tensors": (
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "with FakeTensorMode():\n"
        "    shown(torch.nn.Conv2d(3, 5, 3)(torch.empty(1, 3, 9, 9)))"
    ),
    "tracing": (
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "shown(make_fx(lambda x: x.sin() + 1)(torch.ones(2)).graph)"
    ),
    "vmap": "shown(torch.vmap(torch.dot)(torch.ones(3, 2), torch.ones(3, 2)))",
    "grad": "from torch.func import grad; shown(grad(torch.sin)(torch.tensor(0.5)))",
    "cond": "shown(torch.cond(True, torch.sin, torch.cos, (torch.ones(2),)))",
    "distributions": "shown(torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))",
    "data": "shown(list(torch.utils.data.DataLoader([1, 2, 3], batch_size=2)))",
    "masked": "shown(torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])))",
    "a missing module": "shown(torch._export.__name__, torch._subclasses.FakeTensor)",
    "changing one": (
        "torch._decomp.ours = 7\n"
        "import torch._decomp as again\n"
        "shown(again.ours, torch._decomp.ours)"
    ),
}


def python(words: str) -> str:
    """What a fresh process prints."""
    start = "import re, sys, warnings\nwarnings.simplefilter('ignore')\n" + textwrap.dedent("""
        def shown(*values):
            print(re.sub(r" at 0x[0-9a-f]+", "", repr(values)))
        """)
    done = subprocess.run(
        [sys.executable, "-c", f"{start}\n{words}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def plainly() -> dict[str, str]:
    """What each of USES prints after `import torch`, one process for all."""
    parts = [f"print('--', {name!r})\n{use}" for name, use in USES.items()]
    printed = python("\n".join(["import torch", *parts])).split("-- ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in printed)}


@pytest.fixture(autouse=True)
def tried() -> None:
    if torch_import._version() not in torch_import.TRIED:
        pytest.skip("this version of torch is imported plainly")


@pytest.mark.parametrize("name", USES)
def test_every_use_finds_the_whole_torch(name: str) -> None:
    there = "assert not any(type(m).__name__ == '_Empty' for m in sys.modules.values())"
    found = python(f"{QUICK}\nimport torch\n{USES[name]}\n{there}")
    assert found == plainly()[name]
    assert found.strip() not in ("", "()")


def test_torch_is_the_plain_one_once_it_is_whole() -> None:
    told = """
    import torch
    names = sorted(n for n in sys.modules if n.startswith("torch"))
    aten = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")]
    meta = [n for n in aten if torch._C._dispatch_has_kernel_for_dispatch_key(n, "Meta")]
    functions = [torch.cond, torch.while_loop, torch.vmap]
    ours = [f for f in sys.meta_path if "rbee" in type(f).__module__]
    shown(names, sorted(vars(torch)), sorted(vars(torch.ops)), sorted(meta), functions, ours,
          torch.__getattr__.__module__, torch.nn.Linear(2, 2)(torch.ones(2)).shape)
    """
    drop = "del torch_import, sys.modules['rbee_worker.loading.torch_import']"
    whole = f"{QUICK}\ntorch_import.whole_torch()\n{drop}\n{textwrap.dedent(told)}"
    assert python(whole) == python(textwrap.dedent(told))


def test_what_nobody_uses_stays_out() -> None:
    found = python(
        f"""{QUICK}
import torch, inspect
torch.manual_seed(0)
a = torch.nn.functional.softmax(torch.randn(4, 4) @ torch.randn(4, 4), -1)
found = inspect.getmodule(inspect.currentframe())
shown(found, hasattr(torch, 'nothing'), a[a > 0.5].sum().item() >= 0)
shown([n for n in torch_import.LATER if type(sys.modules[n]).__name__ != "_Empty"])
"""
    )
    assert found.endswith("([],)\n")


NOT_LISTED = "torch_import.TRIED = ()"
UNKNOWN = "torch_import._version = lambda: ''"
BROKEN_WATCH = """
def watch(self): raise AttributeError("torch.library has changed")
torch_import.Absent.watch = watch
"""


@pytest.mark.parametrize("change", [NOT_LISTED, UNKNOWN, BROKEN_WATCH])
def test_otherwise_torch_is_imported_plainly(change: str) -> None:
    told = (
        "import torch; shown(sorted(n for n in sys.modules if n.startswith('torch')), torch.cond)"
    )
    start = f"from rbee_worker.loading import torch_import\n{change}\ntorch_import.import_torch()"
    empty = "assert not any(type(m).__name__ == '_Empty' for m in sys.modules.values())"
    assert python(f"{start}\n{empty}\n{told}") == python(told)


@pytest.mark.parametrize(("backend", "whole"), [("cpu", False), ("reference", True)])
def test_the_engines_process_on(
    backend: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RBEE_TEST_REPORT", str(report))
    monkeypatch.setattr(
        "rbee_worker.session.client.ProcessHost", partial(ProcessHost, "tests.engine.spied")
    )
    model = write_tiny(tmp_path / "model")
    settings = Settings(model=str(model), backend=backend, ctx=64)
    params = {"max_tokens": 3, "ignore_eos": True, "temperature": 0.7, "logprobs": 2}
    request = Request(id="a", prompt="Hello", params=params)

    async def main() -> None:
        client = await EngineClient.start(settings)
        try:
            await client.ready()
            events = [event async for event in client.generate(request)]
        finally:
            await client.close()
        assert isinstance(events[-1], End)

    asyncio.run(asyncio.wait_for(main(), 120))
    found = json.loads(report.read_text())
    assert found["torch"]
    assert found["left out"] == ([] if whole else list(LATER))
    assert found["executed"] == (list(LATER) if whole else [])
    assert found["of compilers"] == []
