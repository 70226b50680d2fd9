"""The synchronous client."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from secateur._artifact import Architecture, ServiceInfo
from secateur._channel import connection
from secateur._comparison import Comparison
from secateur._config import load_config
from secateur._drive import Driver
from secateur._filter import job_filter
from secateur._flow import Contact
from secateur._handle import JobHandle
from secateur._job import Job, JobState, Plan, job_name
from secateur._operations import Operations
from secateur._options import SpecOptions, prune_spec
from secateur._spec import SpecSource
from secateur._spec_warning import warn_of
from secateur._sweep import Sweep
from secateur._sweep_flow import find_sweep, plan_sweep, submit_sweep
from secateur._watch import Reconnect


class Client:
    """Talks to a Secateur service; thread-safe.

        with secateur.Client("localhost:50051") as client:
            job = client.prune("file:///m", corpus="file:///c", languages={"de": 0.7, "en": 0.3}, sparsity=0.5)
            print(job.result().languages["de"].pruned_perplexity)

    Arguments not given come from the environment (`SECATEUR_ENDPOINT`, ...), then from the configuration file; see
    `ClientConfig` for their meaning. Nothing is sent before the first call.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        timeout_seconds: float | None = None,
        reconnect_seconds: float | None = None,
    ) -> None:
        arguments = {
            "endpoint": endpoint,
            "token": token,
            "ca_file": ca_file,
            "certificate_file": certificate_file,
            "key_file": key_file,
            "timeout_seconds": timeout_seconds,
            "reconnect_seconds": reconnect_seconds,
        }
        self.config = load_config(arguments)
        made = connection(self.config)
        self._driver = Driver(made)
        self._operations = Operations(
            self.config.timeout_seconds,
            Reconnect(self.config.reconnect_seconds),
            local=made.local,
            contact=Contact(speaks_tls=made.speaks_tls),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def prune(
        self,
        model: str,
        *,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        **options: Unpack[SpecOptions],
    ) -> JobHandle:
        """Submit a job that prunes a model for a mix of languages; what may go wrong is emitted as `SpecWarning`.

        Args:
            model: The model, as a URI.
            labels: Your own labels for the job.
            request_id: A UUID; submitting again with the same one returns the same job. If omitted, one is generated.
            **options: `corpus`, `languages` and, optionally, any others from `SpecOptions`.

        Raises:
            InvalidSpecError: the specification breaks rules; the error lists all of them.
            AlreadyExistsError: the request id was already used for another request.
        """
        return self._submitted(prune_spec(model, **options), labels, request_id)

    def submit(
        self, spec: SpecSource, *, labels: Mapping[str, str] | None = None, request_id: str | None = None
    ) -> JobHandle:
        """Submit a job by its specification, a mapping or the path of a YAML file; emits `SpecWarning` as `prune` does.

        Args:
            spec: The specification.
            labels: Your own labels for the job.
            request_id: A UUID; submitting again with the same one returns the same job. If omitted, one is generated.

        Raises:
            InvalidSpecError: the specification breaks rules; the error lists all of them.
            AlreadyExistsError: the request id was already used for another request.
        """
        return self._submitted(spec, labels, request_id)

    def _submitted(self, spec: SpecSource, labels: Mapping[str, str] | None, request_id: str | None) -> JobHandle:
        """Submit a job; its warnings name the line that called our caller."""
        job = self._driver.run(self._operations.create(spec, labels, request_id))
        warn_of(job, stacklevel=3)
        return self.job(job.name)

    def plan(self, spec: SpecSource, *, labels: Mapping[str, str] | None = None) -> Plan:
        """Have a specification checked and its cost estimated, without submitting it.

        Args:
            spec: The specification: a mapping (`prune_spec` makes one) or the path of a YAML file.
            labels: Labels to check as well.

        Raises:
            InvalidSpecError: the specification breaks rules; the error lists all of them.
        """
        return self._driver.run(self._operations.plan(spec, labels))

    def sweep(self, spec: SpecSource, *, name: str | None = None, retry: bool = False) -> Sweep:
        """Submit a job for every combination of the values that a specification lists in its section `sweep`.

        Nothing is submitted unless every job is admitted. Calling it again submits nothing twice: points that have a
        job keep it, whatever became of it.

        Args:
            spec: A specification with `sweep: {FIELD: [value, ...], ...}`: a mapping or the path of a YAML file.
            name: Name of the sweep, up to 63 letters, digits, dots, dashes and underscores; by default it is derived
                from the specifications, so that the same content is the same sweep.
            retry: Whether jobs that failed or were cancelled are retried.

        Raises:
            InvalidSpecError: the section is not clear, or points break rules; the error lists everything.
        """
        found = self._driver.run(submit_sweep(self._operations, spec, name, retry=retry))
        return Sweep(self._driver, self._operations, found)

    def find_sweep(self, spec: SpecSource, *, name: str | None = None) -> Sweep:
        """The sweep that `sweep` would submit, with the jobs that it has by now; submits nothing.

        Raises:
            InvalidSpecError: the section is not clear; the error lists every fault.
        """
        return Sweep(self._driver, self._operations, self._driver.run(find_sweep(self._operations, spec, name)))

    def plan_sweep(self, spec: SpecSource, *, name: str | None = None) -> dict[str, Plan]:
        """Have every point of a sweep checked and its cost estimated, by point, without submitting anything.

        Raises:
            InvalidSpecError: the section is not clear, or points break rules; the error lists everything.
        """
        return self._driver.run(plan_sweep(self._operations, spec, name))

    def job(self, name: str) -> JobHandle:
        """A handle on a job by its name or id; sends no request."""
        return JobHandle(self._driver, self._operations, job_name(name))

    def find_job(self, text: str) -> JobHandle:
        """A handle on a job by its name, its id, or the beginning of its id; asks the service where it is shortened.

        Raises:
            NotFoundError: several ids begin so; its reason is JOB_AMBIGUOUS.
        """
        return self.job(self._driver.run(self._operations.find(text)))

    def list_jobs(
        self,
        *,
        states: Collection[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        since: datetime | timedelta | None = None,
        before: datetime | timedelta | None = None,
        order_by: str = "",
        page_size: int = 0,
    ) -> Iterator[Job]:
        """Yield jobs, newest first unless another order is asked for, fetching page by page.

        Args:
            states: Only jobs in one of these; all when empty.
            labels: Only jobs with all of these labels.
            since: Only jobs created at this time or later, or so long ago at most.
            before: Only jobs created before this time, or longer ago than that.
            order_by: `create_time`, `end_time` or `worst_growth` (of `Job.worst_growth`), with ` desc` the greatest
                first; jobs without such a value are left out. Default `create_time desc`.
            page_size: Jobs per call; 0 for the service's default.

        Raises:
            InvalidRequestError: there is no such order.
        """
        return self._driver.iterate(
            self._operations.list_jobs(job_filter(states, labels, since, before), order_by, page_size)
        )

    def compare(
        self,
        jobs: Iterable[str],
        *,
        target_languages: Iterable[str] = (),
        max_growth: float | None = None,
        html: bool = False,
        related: bool = False,
    ) -> Comparison:
        """Put jobs that have a report side by side: what each language lost in each, and which job to take.

        Args:
            jobs: Names or ids of 1 to 50 jobs.
            target_languages: Languages that the recommended job has to serve; none for all that every job evaluated.
            max_growth: What each of them may lose at most, as a ratio to the dense model: 1.05 permits five per cent.
                The smallest job within it is recommended; without it the one whose worst language loses least.
            html: Whether to ask for the page, too.
            related: Whether to compare with the newest other jobs of the same dense models as well: those that have a
                report, at most 20, and 50 jobs in all. Then the named jobs decide which text is compared.

        Raises:
            NotReadyError: a job has no report, or one that cannot be compared; the message names it.
            InvalidRequestError: a language is none, or the limit is no ratio; or an argument is no list.
        """
        return self._driver.run(
            self._operations.compare(jobs, target_languages, max_growth, html=html, related=related)
        )

    def info(self) -> ServiceInfo:
        """What the service can do."""
        return self._driver.run(self._operations.info())

    def architecture(self, model_type: str) -> Architecture:
        """Whether models of a type can be pruned, what is done with their blocks, or which supported type is nearest.

        Args:
            model_type: transformers' `model_type`, from a model's config.json.
        """
        return self._driver.run(self._operations.architecture(model_type))

    def close(self) -> None:
        """Close the connection and end all calls; watches in other threads raise `ClientClosedError`."""
        self._driver.close()
