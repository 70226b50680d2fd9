"""A model of which one block at a time is in memory.

The model of transformers is instantiated without memory (on the meta device); one block, or the parts before and
after the blocks, are given memory and their tensors while they are used. The model's own forward pass is used
throughout, so that masks, rotary embeddings, soft-caps and scales are the architecture's and not ours:

- `embed` runs it with every block replaced by a recorder, which also yields the keyword arguments of each block;
- `run_block` runs one block with the arguments recorded for the shape of its batch;
- `token_losses` runs it with hidden states put in at block 0, every other block an identity, and the head a recorder
  of what it is given; and once more, where something follows the head, with logits put in there.

Shapes: B sequences, S tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from secateur_service.models.belonging import check_tensors
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.configuration import read_configuration
from secateur_service.models.experts import replace_experts
from secateur_service.models.safetensors import OutputTensor, TensorInfo
from secateur_service.models.states import in_file
from secateur_service.models.tensors import (
    DTYPES,
    TensorReader,
    count_non_finite,
    open_here,
    output_tensor,
    refuse_non_finite,
)

# Memory of a slice of the head and of a slice of logits; an accelerator wants larger products.
_HEAD_SLICE_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
_LOGITS_SLICE_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
_MAX_HEAD_TOKENS = 4096
# Floating-point operations between two looks at whether to go on.
_HEAD_PIECE_OPERATIONS = {"cpu": 2.0**33, "cuda": 2.0**43}
# Of its work, what may be tried out to know how long it will take.
_TRIED_SHARE = 1 / 64
_LOGITS_SPREAD = 3.0  # standard deviation of the logits of a token, as of a trained model
# Rows of the embedding that are gathered at once.
_EMBEDDED_ROWS = 4096

BlockArguments = tuple[tuple[Any, ...], dict[str, Any]]


class StreamedModel:
    """A causal language model whose blocks are loaded one at a time.

    Args:
        checkpoint: the model to stream.
        device: where it computes.
        dtype: type of weights and hidden states while computing; the files' type is kept for writing.
        open_file: opens a file of the checkpoint.

    Attributes:
        states_device: where hidden states wait between two blocks; the device, unless they do not fit there.
        states_folder: where those that wait on the host lie in files; None for memory.
        small_batches: whether a device takes as few sequences at once as the host does.
        check: called between two pieces of work; raises to stop. May be called from another thread.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        open_file: Callable[[Path], BinaryIO] = open_here,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.reader = TensorReader(open_file)
        self.states_device = device
        self.states_folder: Path | None = None
        self.small_batches = False
        self.check: Callable[[], None] = lambda: None
        self.reader.on_read = lambda _: self.check()
        self._model = _build_without_memory(checkpoint, dtype)
        self._blocks: list[nn.Module] = list(self._model.get_submodule(checkpoint.architecture.blocks))
        if len(self._blocks) != checkpoint.num_blocks:
            raise ModelRefusedError("config.json contradicts itself about the number of blocks")
        self._embedding: nn.Embedding = self._model.get_input_embeddings()
        self._head: nn.Linear = self._model.get_output_embeddings()
        self._hidden = int(self._model.config.get_text_config().hidden_size)
        self._arguments: dict[tuple[int, int], list[BlockArguments]] = {}
        self._check_shapes()
        self._load_outer()

    @property
    def num_blocks(self) -> int:
        """Number of decoder blocks."""
        return len(self._blocks)

    def digest(self) -> str:
        """SHA-256 over the names and contents of all tensors of the checkpoint, however they are divided into files."""
        for info in self.checkpoint.tensors.values():
            if info.name not in self.reader.digests:
                self.reader.read(info)
        return self.reader.model_digest()

    @torch.no_grad()
    def embed(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Embed batches of tokens and record the arguments of every block for each shape of batch.

        Only the rows of the embedding that the tokens need are read.

        Args:
            batches: token ids, each B×S.

        Returns:
            The hidden states before the first block, each B×S×d.
        """
        used = torch.unique(torch.cat([batch.flatten() for batch in batches]))
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
        states: list[Tensor] = []
        for batch in batches:
            self.check()
            shape = (batch.shape[0], batch.shape[1])
            recording = shape not in self._arguments
            if recording:
                self._arguments[shape] = []

            def record(index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
                if index == 0:
                    states.append(self._put_aside(hidden))
                if recording:  # noqa: B023 - called before the loop goes on
                    self._arguments[shape].append((args, kwargs))  # noqa: B023
                return hidden

            with self._blocks_replaced(record):
                self._run_base(torch.searchsorted(used, batch).to(self.device))
        self._embedding.weight = nn.Parameter(self._embedding.weight[:1].clone(), requires_grad=False)
        return states

    def read_block(self, index: int) -> dict[str, Tensor]:
        """The dense weights of a block as they are stored, by name; may run in another thread.

        Raises:
            ModelRefusedError: a tensor is missing.
        """
        path = self.checkpoint.block_path(index)
        names = [self.checkpoint.stored_name(f"{path}.{name}") for name, _ in self._blocks[index].named_parameters()]
        return {name: self.reader.read(self.checkpoint.tensors[name]) for name in names}

    @contextlib.contextmanager
    def block(self, index: int, tensors: dict[str, Tensor] | None = None) -> Iterator[nn.Module]:
        """The block with its dense weights in memory, for as long as the context lasts.

        Args:
            index: its position.
            tensors: what `read_block` returned, used up; read now where they are not given.

        Raises:
            ModelRefusedError: a tensor is missing.
            FloatingPointError: a weight is not finite; the message names it.
        """
        block = self._blocks[index]
        stored = self.read_block(index) if tensors is None else tensors
        self._materialise(block, self.checkpoint.block_path(index), lambda info: stored.pop(info.name))
        looks = [linear.register_forward_pre_hook(self._look) for linear in self.linears(block, index).values()]
        try:
            yield block
        finally:
            for look in looks:
                look.remove()
            block.to("meta")

    def load_into(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Put tensors, named as in the checkpoint, into a block that is in memory."""
        path = self.checkpoint.block_path(index)
        for name, parameter in self._blocks[index].named_parameters():
            stored = self.checkpoint.stored_name(f"{path}.{name}")
            if stored in tensors:
                parameter.copy_(tensors[stored])

    @torch.no_grad()
    def run_block(self, block: nn.Module, index: int, states: Tensor) -> Tensor:
        """Run a block that is in memory on hidden states B×S×d."""
        args, kwargs = self._arguments[(states.shape[0], states.shape[1])][index]
        output = block(states.to(self.device), *args, **kwargs)
        return self._put_aside(output[0] if isinstance(output, tuple) else output)

    def linears(self, block: nn.Module, index: int) -> dict[str, nn.Linear]:
        """The pruned linear layers of a block by their name below it, in the order of their inputs."""
        return {name: block.get_submodule(name) for group in self.checkpoint.inputs(index) for name in group}  # type: ignore[misc]

    def output_tensors(self, block: nn.Module, index: int) -> list[OutputTensor]:
        """The tensors of a block in memory for writing, under their names and types in the checkpoint.

        Raises:
            FloatingPointError: a weight is not finite in that type; the message names it.
        """
        path = self.checkpoint.block_path(index)
        parameters = {
            self.checkpoint.stored_name(f"{path}.{name}"): parameter for name, parameter in block.named_parameters()
        }
        return [
            output_tensor(info.name, parameters[info.name].to(DTYPES[info.dtype]))
            for info in self.checkpoint.block_tensors(index)
        ]

    @torch.no_grad()
    def token_losses(
        self,
        copies: Sequence[list[Tensor]],
        tokens: Sequence[Tensor],
        on_piece: Callable[[float], None] = lambda _: None,
    ) -> list[list[Tensor]]:
        """Cross-entropy of every next token, for several copies of the hidden states after the last block.

        The final norm runs on slices of tokens, the head on slices of tokens and of the vocabulary, so that neither the
        head nor the logits need be in memory as a whole. The slices of the vocabulary are joined by a running
        log-sum-exp.

        Args:
            copies: for each copy, hidden states B×S×d of every batch; used up.
            tokens: token ids B×S of every batch.
            on_piece: called with the floating-point operations of every piece of the work; may raise to stop.

        Returns:
            For each copy, losses in nats B×(S−1) of every batch, on the host in float64.
        """
        if not tokens:
            return [[] for _ in copies]
        for copy in copies:
            for position, states in enumerate(copy):
                copy[position] = self._head_inputs(states[:, :-1])
        follows = self._follows_head()
        log_sums = [[torch.full(ids[:, 1:].shape, -torch.inf) for ids in tokens] for _ in copies]
        chosen = [[torch.zeros(ids[:, 1:].shape) for ids in tokens] for _ in copies]
        for start, stop in self._head_slices():
            weight = self._load_head(start, stop)
            for copy, sums, picks in zip(copies, log_sums, chosen, strict=True):
                for states, ids, total, pick in zip(copy, tokens, sums, picks, strict=True):
                    logits = _Logits(weight, start, ids[:, 1:], total, pick, self._after_head if follows else None)
                    for piece in self._head_pieces(states, stop - start):
                        logits.accumulate(states.view(-1, states.shape[-1])[piece].to(self.device), piece)
                        on_piece(2.0 * (piece.stop - piece.start) * weight.numel())
            del weight
        return [
            [(total.double() - pick.double()) for total, pick in zip(sums, picks, strict=True)]
            for sums, picks in zip(log_sums, chosen, strict=True)
        ]

    @torch.no_grad()
    def time_head(self, states: Tensor, operations: float, clock: Callable[[], float]) -> tuple[float, float]:
        """How fast the head is, tried out on a piece of it where that is a small part of its work.

        Args:
            states: hidden states B×S×d of a batch, for their shape.
            operations: of the head's whole work.
            clock: seconds, or seconds of effort, since some moment.

        Returns:
            Floating-point operations that were tried, and the seconds that they took; zeros where none were.
        """
        start, stop = next(iter(self._head_slices()))
        piece = next(iter(self._head_pieces(states, stop - start)))
        count = piece.stop - piece.start
        tried = 2.0 * count * (stop - start) * states.shape[-1]
        if tried > _TRIED_SHARE * operations:
            return 0.0, 0.0
        weight = self._load_head(start, stop)
        # What the last block gives is not known yet. Logits much larger than a trained model's would take longer: their
        # exponentials underflow.
        noise = torch.randn(count, states.shape[-1], generator=torch.Generator().manual_seed(0))
        inputs = (_LOGITS_SPREAD / weight.float().norm(dim=1).mean().cpu() * noise).to(weight)
        nothing = torch.zeros(1, count)
        seconds = 0.0
        for _ in range(2):  # the first is slower
            self.check()
            logits = _Logits(weight, start, nothing.long(), nothing.clone(), nothing.clone(), None)
            began = clock()
            logits.accumulate(inputs, slice(0, count))
            seconds = clock() - began
        return tried, seconds

    def _head_slices(self) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) of the head that are in memory together."""
        vocabulary, hidden = self.checkpoint.tensors[self.checkpoint.head_name].shape
        rows = max(1, min(vocabulary, _HEAD_SLICE_BYTES[self.device.type] // (hidden * self.dtype.itemsize)))
        for start in range(0, vocabulary, rows):
            yield start, min(start + rows, vocabulary)

    def _head_pieces(self, states: Tensor, rows: int) -> Iterator[slice]:
        """Tokens of a batch of states whose logits for so many rows of the head are computed together."""
        tokens = states.numel() // states.shape[-1]
        by_memory = _LOGITS_SLICE_BYTES[self.device.type] // (rows * 4)
        by_work = int(_HEAD_PIECE_OPERATIONS[self.device.type] / (2 * rows * states.shape[-1]))
        step = max(1, min(_MAX_HEAD_TOKENS, by_memory, by_work))
        for begin in range(0, tokens, step):
            yield slice(begin, min(begin + step, tokens))

    def _look(self, *_: Any) -> None:
        """Before every product of a block: whether to go on."""
        self.check()

    def _put_aside(self, states: Tensor) -> Tensor:
        if self.states_folder is not None and self.states_device.type == "cpu":
            return in_file(states, self.states_folder)
        return states.to(self.states_device)

    def _head_inputs(self, states: Tensor) -> Tensor:
        """What the model gives its head for hidden states B×S×d after the last block; of the same width or another."""
        parts: list[Tensor] = []

        def record(hidden: Tensor) -> Tensor:
            parts.append(hidden[:, 0])
            return hidden

        for piece in states.reshape(-1, states.shape[-1]).split(_MAX_HEAD_TOKENS):
            self.check()
            self._run_outer(piece.to(self.device), record)
        return self._put_aside(torch.cat(parts).view(*states.shape[:-1], -1))

    def _after_head(self, logits: Tensor) -> Tensor:
        """What the model makes of logits t×v of its head: scales and soft-caps."""
        hidden = torch.zeros(logits.shape[0], self._hidden, dtype=self.dtype, device=self.device)
        return self._run_outer(hidden, lambda _: logits[:, None])[:, 0]

    def _follows_head(self) -> bool:
        """Whether the model makes anything of its logits; small and large ones are tried."""
        exponents = torch.arange(-6, 7, device=self.device)
        logits = torch.cat([1.25 * 2.0**exponents, -1.25 * 2.0**exponents]).to(self.dtype)[None]
        return not torch.equal(self._after_head(logits), logits)

    def _run_outer(self, states: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits t×1×v of the model for hidden states t×d in the place of what its blocks make, and another head."""

        def inject(index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:  # noqa: ARG001
            return states[:, None] if index == 0 else hidden

        # As t sequences of one token: masks stay trivial however many tokens there are.
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
        """Let `replacement(index, hidden states, further arguments)` stand in for the forward pass of every block."""
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
    def _run_base(self, tokens: Tensor) -> None:
        self._model.base_model(input_ids=tokens, use_cache=False)

    def _load_outer(self) -> None:
        """Give memory and tensors to everything but blocks, embedding and head: norms, rotary frequencies."""
        blocks = set(self._blocks)

        def visit(module: nn.Module, path: str) -> None:
            self._materialise(module, path, self.reader.read, recurse=False)
            for name, child in module.named_children():
                if child not in blocks and child is not self._embedding and child is not self._head:
                    visit(child, f"{path}.{name}" if path else name)

        visit(self._model, "")
        # The table of the embedding comes with the tokens; here only its own buffers, a scale in some architectures.
        self._embedding.weight = nn.Parameter(self._embedding.weight[:1], requires_grad=False)
        self._embedding.padding_idx = None
        self._embedding.to_empty(device=self.device)
        self._restore_buffers(self._embedding)

    def _materialise(
        self, module: nn.Module, path: str, read: Callable[[TensorInfo], Tensor], *, recurse: bool = True
    ) -> None:
        module.to_empty(device=self.device, recurse=recurse)
        for submodule in module.modules() if recurse else (module,):
            self._restore_buffers(submodule)
        for name, parameter in module.named_parameters(recurse=recurse):
            self.check()
            info = self.checkpoint.tensors[self.checkpoint.stored_name(f"{path}.{name}")]
            tensor = read(info)
            refuse_non_finite(info.name, info.shape, count_non_finite(tensor))
            parameter.copy_(tensor)

    def _restore_buffers(self, module: nn.Module) -> None:
        """Let the model's own initialisation fill buffers that no checkpoint stores, such as rotary frequencies."""
        if module._non_persistent_buffers_set:
            self._model._init_weights(module)

    def _load_head(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the head."""
        self.check()
        info = self.checkpoint.tensors[self.checkpoint.head_name]
        return self.reader.read_rows(info, start, stop).to(device=self.device, dtype=self.dtype)

    def _parameter(self, tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(device=self.device, dtype=self.dtype), requires_grad=False)

    def _check_shapes(self) -> None:
        """Tensors have the names and shapes that the configuration announces; every pruned layer is a linear one."""
        check_tensors(
            self.checkpoint, {name: tuple(parameter.shape) for name, parameter in self._model.named_parameters()}
        )
        if self._head.bias is not None:
            raise ModelRefusedError("the head has a bias, which no supported architecture has")
        for index, block in enumerate(self._blocks):
            for layer in self.linears(block, index).values():
                if not isinstance(layer, nn.Linear):
                    raise ModelRefusedError(f"a {type(layer).__name__} stands where a linear layer is expected")


class _Logits:
    """Log-sum-exp over the vocabulary, and the targets' logits, of a batch of tokens: added to by a slice of rows.

    Args:
        weight: rows of the head, v×d.
        start: the first of them.
        targets: ids B×S.
        log_sum: B×S, added to.
        chosen: B×S, where logits of targets that lie in the slice are put.
        after: what the model makes of logits t×v; None for nothing.
    """

    def __init__(
        self,
        weight: Tensor,
        start: int,
        targets: Tensor,
        log_sum: Tensor,
        chosen: Tensor,
        after: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._weight, self._start, self._after = weight, start, after
        self._targets, self._log_sum, self._chosen = targets.reshape(-1), log_sum.view(-1), chosen.view(-1)

    def accumulate(self, inputs: Tensor, piece: slice) -> None:
        """Add what the head makes of the inputs t×d of a piece of the tokens."""
        logits = torch.nn.functional.linear(inputs, self._weight)
        logits = (logits if self._after is None else self._after(logits)).float()
        rows = len(self._weight)
        self._log_sum[piece] = torch.logaddexp(self._log_sum[piece], logits.logsumexp(-1).cpu())
        local = self._targets[piece] - self._start
        inside = (local >= 0) & (local < rows)
        picked = logits.gather(-1, local.clamp(0, rows - 1).to(logits.device)[:, None])[:, 0].cpu()
        self._chosen[piece] = torch.where(inside, picked, self._chosen[piece])


def load_whole(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The whole model in memory, for what cannot be done a block at a time: writing text.

    Raises:
        ModelRefusedError: transformers cannot load it.
    """
    try:
        config = read_configuration(checkpoint.config, checkpoint.model_type)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=config,
            generation_config=_generation(checkpoint, config),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelRefusedError(f"transformers cannot load the model: {error!r}") from error
    model, found = loaded
    if found["missing_keys"]:
        raise ModelRefusedError(f"the checkpoint has no tensor {min(found['missing_keys'])}; check that it is complete")
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _generation(checkpoint: Checkpoint, config: Any) -> GenerationConfig:
    """How the model writes, by what was taken of its folder: one that cannot be read was left out."""
    if checkpoint.companions is not None and (checkpoint.companions / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(checkpoint.companions)
    return GenerationConfig.from_model_config(config)


def _build_without_memory(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model on the meta device, with the best attention that its class supports.

    Raises:
        ModelRefusedError: transformers cannot build it.
    """
    config = read_configuration(checkpoint.config, checkpoint.model_type)
    config.use_cache = config.output_hidden_states = config.output_attentions = False
    config.return_dict = True
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except Exception as error:
        raise ModelRefusedError(f"transformers cannot build a model from config.json: {error!r}") from error
    if checkpoint.architecture.experts:
        replace_experts(model.get_submodule(checkpoint.architecture.blocks), checkpoint.architecture.experts)
    return model.requires_grad_(requires_grad=False)
