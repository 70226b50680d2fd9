"""Presets read with `datasets`: streams documents from the hub, from a part of the data set that the seed chooses.

The library finds the files of a configuration, reads them by range and resumes after a broken connection. It uses one
hub, which it takes from `HF_ENDPOINT` when it is loaded (`Settings.library_environment`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from secateur._foreign import detail_of
from secateur_service.calibration.documents import CorpusRefusedError, Reading, Render, Row, documents_of
from secateur_service.calibration.presets import Preset
from secateur_service.errors import TransientError

# The library's retries and the wait between them; its own defaults are meant for notebooks.
RETRIES = 5
RETRY_SECONDS = 2


@dataclass(frozen=True)
class HubCorpus:
    """A preset at a commit of its data set.

    Attributes:
        commit: commit of the data set.
        endpoint: URL of the hub.
        token: token of an account that may read it; None for public data sets.
        render: makes the text of every document; None where texts are used unchanged.
        on_read: called with how many bytes of text a reading has read so far, and with 0 at its end.
    """

    preset: Preset
    commit: str
    endpoint: str
    token: str | None
    render: Render | None = None
    on_read: Callable[[int], None] = lambda _: None
    is_endless = True

    @property
    def identity(self) -> str:
        """Data set and commit."""
        return f"{self.preset.repository}@{self.commit}"

    def documents(self, language: str, seed: int, reading: Reading | None = None) -> Iterator[str]:
        """The documents of a language, file by file in an order that the seed chooses.

        Raises:
            CorpusRefusedError: the preset lacks the language, or cannot be read.
            TransientError: the hub cannot be reached.
        """
        configuration, field = self.preset.configuration(language), self.preset.text_field
        place = f"{self.preset.repository} ({configuration})"

        def rows() -> Iterator[Row]:
            size_bytes = 0
            with contextlib.ExitStack() as stack:
                stack.callback(self.on_read, 0)
                stack.enter_context(self._translated(configuration))
                for number, row in enumerate(self._rows(configuration, seed), 1):
                    text = row[field]
                    if isinstance(text, str):
                        size_bytes += len(text.encode(errors="replace"))
                        self.on_read(size_bytes)
                        yield Row(f"{place}, row {number}", text)
                    else:
                        found = f"{field!r} is {'null' if text is None else type(text).__name__}"
                        yield Row(f"{place}, row {number}", None, found)

        return documents_of(rows(), field, self.render, reading or Reading(), is_endless=True)

    def _rows(self, configuration: str, seed: int) -> Any:
        library = _library(self.endpoint)
        rows = library.load_dataset(
            self.preset.repository,
            configuration,
            split=self.preset.split,
            revision=self.commit,
            streaming=True,
            token=self.token or False,
        )
        # A buffer of one: only the order of the files is shuffled here; documents are ordered by their hashes.
        return rows.select_columns([self.preset.text_field]).shuffle(seed=seed, buffer_size=1)

    @contextlib.contextmanager
    def _translated(self, configuration: str) -> Iterator[None]:
        import httpx2
        from datasets.exceptions import DatasetNotFoundError, DatasetsError
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        place = f"{self.endpoint}/datasets/{self.preset.repository} ({configuration} at {self.commit})"
        try:
            yield
        except GatedRepoError as error:
            raise CorpusRefusedError(f"cannot be read, {place} is gated; accept its terms, and set a token") from error
        except (DatasetNotFoundError, RepositoryNotFoundError) as error:
            raise CorpusRefusedError(f"cannot be read: there is no {place}, or it wants a token") from error
        except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, TimeoutError) as error:
            raise TransientError(f"{place} cannot be reached: {detail_of(error)}", reason="HUB_UNREACHABLE") from error
        except (DatasetsError, ValueError, KeyError, OSError) as error:
            raise CorpusRefusedError(f"cannot be read, {place}: {detail_of(error)}") from error


def _library(endpoint: str) -> Any:
    import datasets

    if endpoint.rstrip("/") != datasets.config.HF_ENDPOINT.rstrip("/"):
        raise RuntimeError(f"datasets was loaded for {datasets.config.HF_ENDPOINT}; set HF_ENDPOINT={endpoint} before")
    datasets.config.STREAMING_READ_MAX_RETRIES = RETRIES
    datasets.config.STREAMING_READ_RETRY_INTERVAL = RETRY_SECONDS
    return datasets
