"""A site whose workers run the real pipeline and fail as told (`faults.worker`)."""

import json

import torch

from faults.published import published
from faults.worker import work
from secateur_service.artifacts import open_store
from secateur_service.jobs.job import EventKind
from secateur_service.spec import parse_spec
from support.forking import ForkingExecutor
from support.jobs import new_job
from support.models import save_corpora, save_model, spec_data
from support.site import Site

TINY_BLOCKS = 3


class RealSite(Site):
    """Dispatchers over a data folder, with real workers."""

    def __init__(self, folder, files, **settings):
        given = {"lease_seconds": 60, "threads_per_worker": 1, **settings}
        super().__init__(folder, file_roots=(files,), **given)
        self.store.migrate()
        self.files = files
        self.blocks = json.loads((files / "model" / "config.json").read_text())["num_hidden_layers"]

    def executor(self, faulty):
        return ForkingExecutor(self.settings, work, faulty)

    def failing(self, *faults, **given):
        """A dispatcher whose workers' n-th attempt meets the n-th fault."""
        return self.dispatcher(faults, **given)

    def let_go(self):
        """Let workers go on that hold."""
        (self.settings.data_dir / "go").touch()

    def let_step(self):
        """Let a worker take a step."""
        (self.settings.data_dir / "step").touch()

    def submit(self, *, max_attempts=50, shrink=None, reconstruction=None, **evaluation):
        data = spec_data(self.files / "model", self.files / "calibration", self.files / "evaluation")
        data["evaluation"].update(evaluation)
        data |= {"shrink": shrink, "reconstruction": reconstruction}
        destination = {"destination": self.settings.destinations[0]}
        resolved = parse_spec({**data, "output": destination, "execution": {"max_attempts": max_attempts}})
        return self.store.create(new_job(resolved=resolved)).id

    def published(self, job_id):
        """What `published.published` says of a job."""
        return published(open_store(self.settings.destinations[0], self.settings), self.store.get(job_id))

    def failures(self, job_id):
        """Why attempts were given up."""
        return [body["failure"]["reason"] for body in self.events(job_id, EventKind.STATE) if body.get("failure")]


def save_tiny_files(folder):
    """A model of few blocks and text for it."""
    save_model(folder / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=TINY_BLOCKS)
    save_corpora(folder)
    return folder
