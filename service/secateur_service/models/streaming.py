"""A model with one block at a time in memory.

transformers' model is instantiated without memory (on the meta device); one block, or the parts before and after the
blocks, get memory and their tensors while they are used. The model's own forward pass is used throughout, so that
masks, rotary embeddings, soft-caps and scales are the architecture's and not ours:

- `embed` runs it with every block replaced by a recorder, which also records the keyword arguments of each block;
- `run_block` runs one block with the arguments recorded for the shape of its batch; `run_branches` does so for
  sequences that share beginnings, which run once;
- `head` runs it with hidden states injected at block 0, every other block an identity, and the head replaced by a
  recorder of its input; and again, where something follows the head, with logits injected there.

Shapes: B sequences, S tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from secateur_service.models.belonging import check_tensors
from secateur_service.models.branches import Branches, of_groups, remembering, with_cache
from secateur_service.models.building import build_without_memory, restore_buffers, stored_tensors
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError, Place
from secateur_service.models.head import Head
from secateur_service.models.outgoing import Outgoing
from secateur_service.models.safetensors import OutputTensor, TensorInfo
from secateur_service.models.states import in_file
from secateur_service.models.tensors import (
    DTYPES,
    Reader,
    TensorReader,
    count_non_finite,
    refuse_non_finite,
)

# Rows of the embedding gathered at once.
_EMBEDDED_ROWS = 4096

BlockArguments = tuple[tuple[Any, ...], dict[str, Any]]


class Across(Protocol):
    """Calls a function for every item, several at once if it likes; the results come in the items' order."""

    def __call__(self, function: Callable[[TensorInfo], Tensor], items: Iterable[TensorInfo], /) -> Iterable[Tensor]:
        """Call it."""


class StreamedModel:
    """A causal language model whose blocks are loaded one at a time.

    Args:
        checkpoint: the model to stream.
        device: where it computes.
        dtype: type of weights and hidden states while computing; the files' type is kept for writing.
        reader: reads its tensors; by default from the files of the checkpoint.

    Attributes:
        head: what follows the last block.
        states_device: where hidden states wait between two blocks; the device, unless they do not fit there.
        states_folder: folder for the files of states that wait on the host; None to keep them in memory.
        small_batches: whether a device gets as few sequences at once as the host does.
        check: called between two pieces of work; raises to stop. May be called from another thread.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        reader: Reader | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.reader = reader or TensorReader(on_read=lambda _: self.check())
        self.states_device = device
        self.states_folder: Path | None = None
        self.small_batches = False
        self.check: Callable[[], None] = lambda: None
        self._model = build_without_memory(checkpoint, dtype)
        self._blocks: list[nn.Module] = list(self._model.get_submodule(checkpoint.architecture.blocks))
        if len(self._blocks) != checkpoint.num_blocks:
            raise ModelRefusedError("config.json contradicts itself about the number of blocks")
        self._embedding: nn.Embedding = self._model.get_input_embeddings()
        self._head: nn.Linear = self._model.get_output_embeddings()
        self.head = Head(
            shape=checkpoint.tensors[checkpoint.head_name].shape,
            hidden=int(self._model.config.get_text_config().hidden_size),
            device=device,
            dtype=dtype,
            rows=self._load_head,
            bias=self._load_head_bias if self._head.bias is not None else None,
            run=self._run_outer,
            put_aside=self.put_aside,
            check=self._look,
            saves=lambda: self.small_batches,
        )
        # By number of sequences, tokens of each, and tokens before them in a cache; None without a cache.
        self._arguments: dict[tuple[int, int, int | None], list[BlockArguments]] = {}
        self._outgoing = Outgoing(device)
        if isinstance(self.reader, TensorReader):
            self.reader.pinned = device.type == "cuda"
        self._check_shapes()
        self._load_outer()

    @property
    def num_blocks(self) -> int:
        """Number of decoder blocks."""
        return len(self._blocks)

    @torch.no_grad()
    def embed(
        self, batches: Sequence[Tensor], branches: Sequence[Branches] = (), needed: Tensor | None = None
    ) -> list[Tensor]:
        """Embed batches of tokens and record the arguments of every block for each batch shape.

        Only the rows of the embedding that the tokens need are read.

        Args:
            batches: token ids, each B×S.
            branches: sequences that share beginnings.
            needed: ascending ids of the tokens whose rows are read; by default those of the batches and branches.

        Returns:
            The hidden states before the first block, each B×S×d; then those of all parts of the branches.
        """
        parts = [part for each in branches for part in each.parts]
        used = needed
        if used is None:
            used = torch.unique(torch.cat([part.flatten() for part in (*batches, *parts)]))
        table = self.checkpoint.tensors[self.checkpoint.embedding_name]
        if int(used[-1]) >= table.shape[0]:
            raise ModelRefusedError(
                f"the tokenizer produces id {int(used[-1])} but the embedding has {table.shape[0]} rows; "
                "model and tokenizer do not belong together"
            )
        rows = []
        for some in used.split(_EMBEDDED_ROWS):
            self.check()
            rows.append(self.reader.gather_rows(table, some.tolist()))
        self._embedding.weight = self._parameter(torch.cat(rows))
        del rows
        self._embedding.padding_idx = None
        states = [self._embed(batch, used) for batch in batches]
        for each in branches:
            cached = [0, *[each.shared] * len(each.rests)] if each.shared else [None] * len(each.rests)
            states += [self._embed(part, used, before) for part, before in zip(each.parts, cached, strict=True)]
        self._embedding.weight = nn.Parameter(self._embedding.weight[:1].clone(), requires_grad=False)
        return states

    def _embed(self, batch: Tensor, used: Tensor, before: int | None = None) -> Tensor:
        """Hidden states of a batch before the first block; `before` tokens are taken to be in a cache.

        Args:
            batch: token ids B×S.
            used: ascending ids of the tokens whose embedding is loaded.
            before: number of tokens in the cache; None for no cache.
        """
        self.check()
        states: list[Tensor] = []
        shape = (batch.shape[0], batch.shape[1], before)
        arguments = None if shape in self._arguments else self._arguments.setdefault(shape, [])

        def record(index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            if index == 0:
                states.append(self.put_aside(hidden))
            if arguments is not None:
                arguments.append((args, kwargs))
            return hidden

        cache = None if before is None else remembering(before, self.num_blocks)
        with self._blocks_replaced(record):
            self._run_base(torch.searchsorted(used, batch).to(self.device), cache)
        return states[0]

    def read_block(self, index: int, across: Across = map) -> dict[str, Tensor]:
        """The dense weights of a block as stored, by name; may run in another thread.

        Args:
            index: its position.
            across: reads the tensors, which are in the order of the files.

        Raises:
            ModelRefusedError: a tensor is missing.
            FloatingPointError: a weight is not finite; the message names it.
        """
        path = self.checkpoint.block_path(index)
        places = (self.checkpoint.place_of(f"{path}.{name}") for name, _ in stored_tensors(self._blocks[index]))
        infos = sorted({place.stored for place in places}, key=lambda info: (info.path, info.offset, info.name))
        return {info.name: tensor for info, tensor in zip(infos, across(self._read, infos), strict=True)}

    def _read(self, info: TensorInfo) -> Tensor:
        return _finite(info, self.reader.read(info))

    def weight(self, index: int, linear: str) -> Tensor:
        """The dense weight of a linear layer of a block, out × in, in the type in which it is stored."""
        place = self.checkpoint.place_of(f"{self.checkpoint.block_path(index)}.{linear}.weight")
        return place.of(self.reader.read(place.stored))

    @contextlib.contextmanager
    def block(
        self, index: int, tensors: dict[str, Tensor] | None = None, *, shared: bool = False
    ) -> Iterator[nn.Module]:
        """The block with its dense weights in memory, for the duration of the context.

        Args:
            index: its position.
            tensors: what `read_block` returned, consumed here; read now if not given.
            shared: whether `tensors` come from elsewhere: they are checked, and stay as they are if the block changes.

        Raises:
            ModelRefusedError: a tensor is missing.
            FloatingPointError: a weight is not finite; the message names it.
        """
        block = self._blocks[index]
        stored = self.read_block(index) if tensors is None else tensors

        def take(info: TensorInfo) -> Tensor:
            tensor = stored.pop(info.name)
            return _finite(info, tensor) if shared else tensor

        self._materialise(block, self.checkpoint.block_path(index), take, shared=shared)
        looks = [linear.register_forward_pre_hook(self._look) for linear in self.linears(block, index).values()]
        try:
            yield block
        finally:
            for look in looks:
                look.remove()
            block.to("meta")

    def copy_of(self, block: nn.Module) -> nn.Module:
        """A copy of a block that is in memory, to run beside it."""
        return copy.deepcopy(block, {id(self): self})  # its hooks stay this model's

    def load_into(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Copy tensors, named as in the checkpoint, into a block that is in memory."""
        path = self.checkpoint.block_path(index)
        for name, parameter in stored_tensors(self._blocks[index]):
            place = self.checkpoint.place_of(f"{path}.{name}")
            if place.stored.name in tensors:
                parameter.copy_(place.of(tensors[place.stored.name]))

    @torch.no_grad()
    def run_block(self, block: nn.Module, index: int, states: Tensor) -> Tensor:
        """Run a block that is in memory on hidden states B×S×d."""
        return self.put_aside(self.trace(block, index, states))

    def trace(self, block: nn.Module, index: int, states: Tensor) -> Tensor:
        """The same so that gradients can be taken; the output stays where it was computed."""
        args, kwargs = self._arguments[(states.shape[0], states.shape[1], None)][index]
        return self._output_of(block(states.to(self.device), *args, **kwargs))

    @torch.no_grad()
    def run_branches(self, block: nn.Module, index: int, branches: Branches, states: Sequence[Tensor]) -> list[Tensor]:
        """Run a block that is in memory on sequences that share beginnings.

        Args:
            block: the block.
            index: its position.
            branches: the sequences.
            states: hidden states of their parts, G×P×d of the beginnings if there are any, and R×K×d of the rests.

        Returns:
            The same after the block.
        """
        if not branches.shared:
            return [self.run_block(block, index, part) for part in states]

        def run(part: Tensor, before: int, cache: DynamicCache) -> Tensor:
            args, kwargs = with_cache(*self._arguments[(part.shape[0], part.shape[1], before)][index], cache)
            return self.put_aside(self._output_of(block(part.to(self.device), *args, **kwargs)))

        cache = DynamicCache()
        after = [run(states[0], 0, cache)]
        for rests, part in zip(branches.rests, states[1:], strict=True):
            of_rests = of_groups(cache, index, rests.groups.to(self.device))
            after.append(run(part, branches.shared, of_rests))
        return after

    @staticmethod
    def _output_of(returned: Any) -> Tensor:
        output: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return output

    def linears(self, block: nn.Module, index: int) -> dict[str, nn.Linear]:
        """The pruned linear layers of a block by their name relative to it, in the order of their inputs."""
        return {name: block.get_submodule(name) for group in self.checkpoint.inputs(index) for name in group}  # type: ignore[misc]

    def output_tensors(self, block: nn.Module, index: int) -> list[OutputTensor]:
        """The tensors of a block in memory, for writing, under their names and types in the checkpoint.

        From an accelerator they are copied in the background: writing them waits, and the caller does not. Values that
        are not finite in the checkpoint's type are found while writing, see `output_tensor`.
        """
        path = self.checkpoint.block_path(index)
        held: dict[str, list[tuple[Place, Tensor]]] = {}
        for name, parameter in stored_tensors(block):
            place = self.checkpoint.place_of(f"{path}.{name}")
            held.setdefault(place.stored.name, []).append((place, parameter))
        outputs = []
        for info in self.checkpoint.block_tensors(index):
            (place, tensor), *others = held[info.name]
            if place.part is not None:
                parts = [(place, tensor), *others]
                tensor = torch.empty(info.shape, dtype=DTYPES[info.dtype], device=tensor.device)
                for each, parameter in parts:
                    each.of(tensor).copy_(parameter)
            outputs.append(self._outgoing.send(info.name, tensor.detach().to(DTYPES[info.dtype])))
        return outputs

    def _look(self, *_: Any) -> None:
        """Check before every product whether to continue."""
        self.check()

    def put_aside(self, states: Tensor) -> Tensor:
        """Hidden states, or other tensors of their kind, where they wait."""
        if self.states_folder is not None and self.states_device.type == "cpu":
            return in_file(states, self.states_folder)
        return states.to(self.states_device)

    def _run_outer(self, states: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits t×1×v of the model, with hidden states t×d in place of its blocks' output, and with another head."""

        def inject(index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:  # noqa: ARG001
            return states[:, None] if index == 0 else hidden

        # As t sequences of one token, masks stay trivial however many tokens there are.
        placeholder = torch.zeros((states.shape[0], 1), dtype=torch.long, device=self.device)
        self._head.forward = head  # type: ignore[assignment,method-assign]
        try:
            with self._blocks_replaced(inject):
                return self._model(input_ids=placeholder, use_cache=False).logits
        finally:
            del self._head.forward

    @contextlib.contextmanager
    def _blocks_replaced(
        self, replacement: Callable[[int, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]
    ) -> Iterator[None]:
        """Replace the forward pass of every block by `replacement(index, hidden states, further arguments)`."""
        wrap = self.checkpoint.architecture.returns_tuple

        def forward_of(index: int) -> Callable[..., Any]:
            def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
                output = replacement(index, hidden_states, args, kwargs)
                return (output, None) if wrap else output

            return forward

        try:
            for index, block in enumerate(self._blocks):
                block.forward = forward_of(index)
            yield
        finally:
            for block in self._blocks:
                del block.forward

    @torch.no_grad()
    def _run_base(self, tokens: Tensor, cache: DynamicCache | None) -> None:
        base = self._model.get_submodule(self.checkpoint.architecture.base_prefix.removesuffix("."))
        base(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)

    def _load_outer(self) -> None:
        """Allocate and load everything except blocks, embedding and head: norms, rotary frequencies."""
        blocks = set(self._blocks)

        def visit(module: nn.Module, path: str) -> None:
            self._materialise(module, path, self._read, recurse=False)
            for name, child in module.named_children():
                if child not in blocks and child is not self._embedding and child is not self._head:
                    visit(child, f"{path}.{name}" if path else name)

        visit(self._model, "")
        # The embedding table is loaded with the tokens; here only its own buffers, a scale in some architectures.
        self._embedding.weight = nn.Parameter(self._embedding.weight[:1], requires_grad=False)
        self._embedding.padding_idx = None
        self._embedding.to_empty(device=self.device)
        restore_buffers(self._model, self._embedding)

    def _materialise(
        self,
        module: nn.Module,
        path: str,
        read: Callable[[TensorInfo], Tensor],
        *,
        recurse: bool = True,
        shared: bool = False,
    ) -> None:
        """Fill a module with stored tensors; what is read becomes the parameter itself, unless it is shared."""
        modules = dict(module.named_modules()) if recurse else {"": module}
        for each in modules.values():
            for name, buffer in each.named_buffers(recurse=False):
                each._buffers[name] = torch.empty_like(buffer, device=self.device)
            restore_buffers(self._model, each)  # its weights, which are on the meta device, stay as they are
        waiting: dict[TensorInfo, list[tuple[Place, str, Tensor]]] = {}
        for name, tensor in stored_tensors(module, recurse=recurse):
            place = self.checkpoint.place_of(f"{path}.{name}" if path else name)
            waiting.setdefault(place.stored, []).append((place, name, tensor))
        for info, held in waiting.items():
            self.check()
            stored = read(info)
            there = stored.to(self.device, non_blocking=True)  # out of page-locked memory, the copy is not waited for
            is_free = len(held) == 1 and not (shared and there is stored)
            for place, name, tensor in held:
                found = place.of(there)
                if not isinstance(tensor, nn.Parameter):
                    tensor.copy_(found)
                    continue
                if not (is_free and place.part is None and found.dtype == tensor.dtype):
                    found = torch.empty_like(tensor, device=self.device).copy_(found)
                owner, _, own = name.rpartition(".")
                parameter = nn.Parameter(found, requires_grad=tensor.requires_grad)
                modules[owner].register_parameter(own, parameter)

    def _load_head(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the head."""
        self.check()
        info = self.checkpoint.tensors[self.checkpoint.head_name]
        return self.reader.read_rows(info, start, stop).to(device=self.device, dtype=self.dtype)

    def _load_head_bias(self, start: int, stop: int) -> Tensor:
        """Entries [start, stop) of the head's bias."""
        info = self.checkpoint.tensors[self.checkpoint.stored_name(f"{self.checkpoint.architecture.head}.bias")]
        return self.reader.read_rows(info, start, stop).to(device=self.device, dtype=self.dtype)

    def _parameter(self, tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(device=self.device, dtype=self.dtype), requires_grad=False)

    def _check_shapes(self) -> None:
        """Check that tensors have the names and shapes that the configuration implies, and pruned layers are linear."""
        check_tensors(self.checkpoint, {name: tuple(tensor.shape) for name, tensor in stored_tensors(self._model)})
        for index, block in enumerate(self._blocks):
            for layer in self.linears(block, index).values():
                if not isinstance(layer, nn.Linear):
                    raise ModelRefusedError(f"a {type(layer).__name__} stands where a linear layer is expected")


def _finite(info: TensorInfo, tensor: Tensor) -> Tensor:
    """The tensor that was read.

    Raises:
        NonFiniteError: a value is not finite.
    """
    refuse_non_finite(info.name, info.shape, count_non_finite(tensor))
    return tensor
