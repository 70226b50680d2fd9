"""Specifications are judged in processes that end: when they take too much, when nobody waits, and with the server."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import Qwen3MoeConfig

import secateur
from secateur_service.admission import AccessPolicy, Admission, admit
from secateur_service.errors import InvalidSpecError, TransientError
from secateur_service.inspection import InspectionPool
from secateur_service.inspection.budget import Budget
from secateur_service.inspection.child import Requests
from secateur_service.settings import Settings
from support import processes
from support.models import save_corpora, save_model, spec_data
from support.service import Service

PATIENCE = 60
AWAY = "hf://org/never-answers"
on_one_loop = pytest.mark.asyncio(loop_scope="module")


class Silence:
    """A hub that takes connections and never says a word."""

    def __init__(self) -> None:
        self.connections = 0
        self._more = asyncio.Condition()

    async def listen(self, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        async with self._more:
            self.connections += 1
            self._more.notify_all()

    async def asked(self, times: int) -> None:
        """Wait until so many have come."""
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: self.connections >= times)


class Site:
    """A pool, what it reads, and its processes."""

    def __init__(self, folder: Path, pool: InspectionPool, hub: Silence, settings: Settings) -> None:
        self.pool = pool
        self.hub = hub
        self.settings = settings
        self.here = spec_data(folder / "model", folder / "calibration", folder / "evaluation")
        self.away = {**self.here, "model": {"uri": AWAY}}

    async def forget(self) -> None:
        """Be as after the start: no children, no connections, and a model away that nobody has asked for."""
        children = self.children()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.gone(children)
        self.hub.connections = 0
        self.away = {**self.here, "model": {"uri": f"{AWAY}-{uuid.uuid4()}"}}

    @property
    def zygote(self) -> int:
        process = self.pool._nursery._process
        assert process is not None
        return process.pid

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.zygote}/task/{self.zygote}/children").read_text().split()]

    async def gone(self, pids: list[int]) -> None:
        async with asyncio.timeout(PATIENCE):
            while any(Path(f"/proc/{pid}").exists() for pid in pids):
                await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    save_model(folder / "model", "llama", dtype=torch.bfloat16)
    save_corpora(folder)
    return folder


@asynccontextmanager
async def opened(files: Path, data_dir: Path, **budgets: Budget) -> AsyncIterator[Site]:
    hub = Silence()
    async with await asyncio.start_server(hub.listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings(data_dir=data_dir, file_roots=(files,), hub_endpoint=f"http://127.0.0.1:{port}")
        pool = InspectionPool(settings, Requests(), **budgets)
        pool.open()
        try:
            yield Site(files, pool, hub, settings)
        finally:
            await pool.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def only_site(files: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Loading what a zygote loads takes seconds."""
    async with opened(files, tmp_path_factory.mktemp("site")) as site:
        await site.pool.admit(site.here, "alice")
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(only_site: Site) -> Site:
    await only_site.forget()
    return only_site


def without_disk(admission: Admission) -> Admission:
    """The same on a disk whose free space does not change all the time."""
    slot = admission.estimate.slot
    assert slot is not None
    estimate = replace(admission.estimate, slot=replace(slot, disk_bytes=0))
    return replace(admission, estimate=estimate)


@on_one_loop
async def test_the_answer_is_that_of_the_rules(site: Site):
    expected = admit(site.here, AccessPolicy.from_settings(site.settings))
    admission = await site.pool.admit(site.here, "alice")
    assert without_disk(admission) == without_disk(expected)
    wrong = {**site.here, "model": {"uri": "file:///etc"}, "pruning": {"sparsity": 2}}
    with pytest.raises(InvalidSpecError) as judged:
        admit(wrong, AccessPolicy.from_settings(site.settings))
    with pytest.raises(InvalidSpecError) as told:
        await site.pool.admit(wrong, "alice")
    assert told.value.violations == judged.value.violations


@on_one_loop
async def test_a_process_is_used_again(site: Site):
    await site.pool.admit(site.here, "alice")
    used = site.children()
    for _ in range(5):
        await site.pool.admit(site.here, "alice")
    assert site.children() == used
    assert len(used) == 1


@on_one_loop
async def test_creations_that_wait_for_a_network_keep_nobody_elses_waiting(site: Site):
    crowd = [asyncio.create_task(site.pool.admit(site.away, "crowd")) for _ in range(24)]
    await site.hub.asked(2)
    for caller in ("alice", "crowd"):  # what lies here waits for no network, whoever asks
        assert (await site.pool.admit(site.here, caller)).resolved
    others = [asyncio.create_task(site.pool.admit(site.away, "alice"))]
    await site.hub.asked(3)
    assert not any(call.done() for call in crowd)
    assert site.hub.connections == 3, "the crowd has more than its share"
    for call in (*crowd, *others):
        call.cancel()
    await asyncio.gather(*crowd, *others, return_exceptions=True)


@on_one_loop
async def test_a_process_whose_caller_is_gone_is_ended(site: Site):
    call = asyncio.create_task(site.pool.admit(site.away, "alice"))
    await site.hub.asked(1)
    waiting = site.children()
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    await site.gone(waiting)
    assert (await site.pool.admit(site.here, "alice")).resolved


@on_one_loop
async def test_what_takes_too_long_is_given_up(files: Path, tmp_path: Path):
    async with opened(files, tmp_path, small=Budget(seconds=0.5, cpu_seconds=20, memory_bytes=32 << 20)) as site:
        with pytest.raises(TransientError, match=r"model\.uri: .* took more than") as caught:
            await asyncio.wait_for(site.pool.admit(site.away, "alice"), PATIENCE)
        assert caught.value.reason == "INSPECTION_TIMEOUT"
        await site.gone(site.children())


@pytest.mark.parametrize(
    ("number", "what"),
    [(signal.SIGXCPU, "20 s of processor time"), (signal.SIGKILL, "768 MiB of memory"), (signal.SIGABRT, "768 MiB")],
)
@on_one_loop
async def test_a_process_that_the_kernel_ends_is_a_refusal_with_field_and_remedy(site: Site, number: int, what: str):
    call = asyncio.create_task(site.pool.admit(site.away, "alice"))
    tried = 0
    while not call.done() and tried < 2:  # what took too much memory is tried once more, with more
        tried += 1
        await site.hub.asked(tried)
        for pid in site.children():
            os.kill(pid, number)
        asked = asyncio.create_task(site.hub.asked(tried + 1))
        await asyncio.wait([call, asked], return_when="FIRST_COMPLETED")
        asked.cancel()
    with pytest.raises(InvalidSpecError) as caught:
        await asyncio.wait_for(call, PATIENCE)
    (violation,) = caught.value.violations
    assert violation.field == "model.uri"
    assert what in violation.description
    assert "name something smaller" in violation.description


@on_one_loop
async def test_what_needs_more_memory_than_most_is_looked_at_with_more(files: Path, tmp_path: Path):
    """A megabyte is not enough for this."""
    async with opened(files, tmp_path, small=Budget(seconds=120, cpu_seconds=20, memory_bytes=1 << 18)) as site:
        assert (await site.pool.admit(site.here, "alice")).resolved
        large = site.children()
        assert (await site.pool.admit(site.here, "alice")).resolved
        assert site.children() == large, "it was tried with little again"


@on_one_loop
async def test_with_too_little_memory_at_all_it_is_a_refusal(files: Path, tmp_path: Path):
    tiny = Budget(seconds=120, cpu_seconds=20, memory_bytes=1 << 18)
    async with opened(files, tmp_path, small=tiny, large=tiny) as site:
        with pytest.raises(InvalidSpecError, match=r"model\.uri: .* MiB of memory"):
            await site.pool.admit(site.here, "alice")


@on_one_loop
async def test_a_new_zygote_takes_the_place_of_one_that_is_gone(site: Site):
    call = asyncio.create_task(site.pool.admit(site.away, "alice"))
    await site.hub.asked(1)
    before, children = site.zygote, site.children()
    os.kill(before, signal.SIGKILL)
    with suppress(InvalidSpecError, TransientError):
        await asyncio.wait_for(call, PATIENCE)
    await site.gone(children)
    assert (await site.pool.admit(site.here, "alice")).resolved
    assert site.zygote != before
    processes.share(site.zygote)


@on_one_loop
async def test_nothing_is_left_when_it_is_closed(files: Path, tmp_path: Path):
    async with opened(files, tmp_path) as site:
        call = asyncio.create_task(site.pool.admit(site.away, "alice"))
        await site.hub.asked(1)
        await site.pool.admit(site.here, "alice")
        started = [site.zygote, *site.children()]
        assert len(started) == 3
        await site.pool.close()
        await site.gone(started)
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], InvalidSpecError | TransientError)


def qwen3_235b() -> dict[str, list[int]]:
    """The shapes of Qwen3-235B-A22B by the names of its 36,945 tensors."""
    shapes = {
        "model.embed_tokens.weight": [151936, 4096],
        "lm_head.weight": [151936, 4096],
        "model.norm.weight": [4096],
    }
    attention = {"q_proj": [8192, 4096], "k_proj": [512, 4096], "v_proj": [512, 4096], "o_proj": [4096, 8192]}
    expert = {"gate_proj": [1536, 4096], "up_proj": [1536, 4096], "down_proj": [4096, 1536]}
    for layer in range(94):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.self_attn.{name}.weight": shape for name, shape in attention.items()}
        shapes |= {f"{block}.self_attn.{name}.weight": [128] for name in ("q_norm", "k_norm")}
        shapes |= {f"{block}.{name}.weight": [4096] for name in ("input_layernorm", "post_attention_layernorm")}
        shapes[f"{block}.mlp.gate.weight"] = [128, 4096]
        for number in range(128):
            shapes |= {f"{block}.mlp.experts.{number}.{name}.weight": shape for name, shape in expert.items()}
    return shapes


def write_holes(folder: Path, shapes: dict[str, list[int]], shards: int) -> None:
    """A checkpoint of headers and an index, as large as the real one and, but for these, empty."""
    names, weight_map = sorted(shapes), {}
    each = -(-len(names) // shards)
    for shard in range(shards):
        file, entries, end = f"model-{shard + 1:05}-of-{shards:05}.safetensors", {}, 0
        for name in names[shard * each : (shard + 1) * each]:
            size = 2 * math.prod(shapes[name])
            entries[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            weight_map[name] = file
            end += size
        header = json.dumps(entries).encode()
        with (folder / file).open("wb") as written:
            written.write(len(header).to_bytes(8, "little") + header)
            written.truncate(8 + len(header) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@on_one_loop
async def test_a_model_of_37_thousand_tensors_in_118_files_is_admitted(files: Path, site: Site):
    folder = files / "qwen3-235b"
    shutil.copytree(files / "model", folder)
    (folder / "model.safetensors").unlink()
    config = Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"],
        dtype="bfloat16",
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        moe_intermediate_size=1536,
        num_hidden_layers=94,
        num_attention_heads=64,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        decoder_sparse_step=1,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    shapes = qwen3_235b()
    assert len(shapes) == 36_945
    write_holes(folder, shapes, shards=118)
    try:
        admission = await site.pool.admit({**site.here, "model": {"uri": folder.as_uri()}}, "alice")
    finally:
        shutil.rmtree(folder)
    assert admission.estimate.checkpoint_bytes == 2 * sum(math.prod(shape) for shape in shapes.values())


def descendants(pid: int) -> list[int]:
    own = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return own + [inner for child in own for inner in descendants(child)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_takes_its_inspections_with_it(files: Path, tmp_path: Path, number: int):
    with socket.create_server(("127.0.0.1", 0)) as hub, ThreadPoolExecutor(1) as pool:
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        service = Service(tmp_path, file_root=files, SECATEUR_HUB_ENDPOINT=endpoint)
        data = {**spec_data(files / "model", files / "calibration", files / "evaluation"), "model": {"uri": AWAY}}

        def create() -> None:
            with secateur.Client(service.endpoint) as client, suppress(secateur.SecateurError):
                client.plan(data)

        try:
            call = pool.submit(create)
            hub.settimeout(PATIENCE)
            with hub.accept()[0]:
                inspections = descendants(service.process.pid)
                assert len(inspections) == 2  # the zygote and a child that waits
                service.process.send_signal(number)
                service.process.wait(PATIENCE)
                deadline = time.monotonic() + PATIENCE
                while any(Path(f"/proc/{pid}").exists() for pid in inspections):
                    assert time.monotonic() < deadline, "they are still there"
                    time.sleep(0.02)
        finally:
            service.close()
            call.result(PATIENCE)
