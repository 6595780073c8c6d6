"""The run request, and the table of its fields.

Each attribute of `RunRequest` and of its groups, in the modules `*_options`, is one entry of the
table: a field's name, group, type and default, its check, its stored form, its description in the
schema and the reference, and its command-line option. All of these are derived from the entry
(CONTRIBUTING.md says how to add one).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.data_options import AccessOptions, DataOptions
from runctl.model.docker_options import DockerOptions
from runctl.model.evaluation_options import INPUT_FIELDS, EvaluationOptions, check_evaluation
from runctl.model.gang_options import GangOptions
from runctl.model.group_options import GroupOptions
from runctl.model.kinds import EVALUATE, KINDS, PROCESS, SERVE, TRAIN
from runctl.model.limit_options import LimitOptions
from runctl.model.processing_options import ProcessingOptions
from runctl.model.program_options import ProgramOptions
from runctl.model.request_fields import (
    Field,
    an_object,
    choice,
    entries,
    read_values,
    write_values,
)
from runctl.model.resource_options import UNKNOWN, ResourceOptions
from runctl.model.saving_options import SavingOptions
from runctl.model.serving_options import CHECKPOINT, ServingOptions
from runctl.model.trial_options import TrialOptions


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked request, its fields in groups; in JSON they are all at the top level.

    `extra` has the fields that only a newer version knows, those inside objects included.
    """

    kind: str = choice(
        "What the run is, which decides what follows the end of an attempt. A run of the kind "
        "`environment` builds the environment of its program and stores it, and starts no program. "
        "One of the kind `process` calls its program once for each shard of its input. "
        "The program of a run of the kind `serve` is an HTTP server; one of the kind `evaluate` "
        "evaluates a checkpoint.",
        choices=KINDS,
        noun="kind",
        default=TRAIN,
        unknown=UNKNOWN,
    )
    program: ProgramOptions = dataclasses.field(default_factory=ProgramOptions)
    resources: ResourceOptions = dataclasses.field(default_factory=ResourceOptions)
    gang: GangOptions = dataclasses.field(default_factory=GangOptions)
    limits: LimitOptions = dataclasses.field(default_factory=LimitOptions)
    saving: SavingOptions = dataclasses.field(default_factory=SavingOptions)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    access: AccessOptions = dataclasses.field(default_factory=AccessOptions)
    grouping: GroupOptions = dataclasses.field(default_factory=GroupOptions)
    docker: DockerOptions = an_object(
        "The container image that the program runs in. Default: none, and the program runs on the "
        "machine itself, in an environment made from the project's requirements.",
        holder=DockerOptions,
        is_setting=True,
        omits_default=True,
    )
    serve: ServingOptions = an_object(
        "The HTTP server of a run of the kind `serve`: its port, its checkpoint, and how its "
        "health is probed.",
        holder=ServingOptions,
        is_setting=True,
        omits_default=True,
        kind=SERVE,
    )
    trial: TrialOptions = an_object(
        "What makes the run a trial of a sweep, which sets it.",
        holder=TrialOptions,
        required=("number", "hyperparameters"),
        omits_default=True,
    )
    evaluate: EvaluationOptions = an_object(
        "What a run of the kind `evaluate` evaluates, and on which data.",
        holder=EvaluationOptions,
        required=("checkpoint",),
        omits_default=True,
        kind=EVALUATE,
        check_together=check_evaluation,
    )
    process: ProcessingOptions = an_object(
        "What a run of the kind `process` reads and writes, and how its input is split.",
        holder=ProcessingOptions,
        is_setting=True,
        omits_default=True,
        kind=PROCESS,
    )
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def staged_inputs(self) -> Mapping[str, str]:
        """Everything that an instance stages below its input folder, by name."""
        checkpoint = {CHECKPOINT: self.serve.checkpoint} if self.serve.checkpoint else {}
        return {**self.data.inputs, **checkpoint, **self.evaluate.inputs}

    @property
    def input_fields(self) -> Mapping[str, str]:
        """The fields that name its staged inputs, by the names of those."""
        return {
            **{name: f"inputs.{name}" for name in self.data.inputs},
            **({CHECKPOINT: "serve.checkpoint"} if self.serve.checkpoint else {}),
            **{name: INPUT_FIELDS[name] for name in self.evaluate.inputs},
        }

    @property
    def group(self) -> str:
        """The group of runs that it belongs to; empty for none."""
        return self.grouping.group

    @property
    def has_inputs(self) -> bool:
        """Whether its program has an input folder."""
        return bool(self.staged_inputs or self.evaluate.checkpoint)

    @property
    def wants_credentials(self) -> bool:
        """Whether the trainer is given AWS credentials, which are those of its run."""
        return self.access.credentials == "run"

    @classmethod
    def of(cls, *, extra: Mapping[str, Any] | None = None, **values: Any) -> "RunRequest":
        """Return a request with these values, each by the name of its field."""
        if unknown := values.keys() - fields_of(cls).keys():
            raise TypeError(f"not a field of the request: {', '.join(sorted(unknown))}")
        parts = {
            name: holder(**_selected(values, entries(holder)))
            for name, holder in groups_of(cls).items()
        }
        return cls(**_selected(values, entries(cls)), **parts, extra=extra or {})

    @classmethod
    def from_stored(cls, document: Any) -> "RunRequest":
        """Read a request that was checked when it was stored, by this version or another.

        Never raises: `extra` keeps unknown fields, a value that cannot be read becomes the
        default, an unknown kind or market is `unknown`, and unknown credentials are none.
        """
        fields = fields_of(cls)
        return cls.of(**read_values(fields, document), extra=unknown_fields(document, fields))

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form, which `parse_request` reads back unchanged."""
        document = write_values(entries(type(self)), self)
        for name, holder in groups_of(type(self)).items():
            document |= write_values(entries(holder), getattr(self, name))
        fields = fields_of(type(self))
        for name, value in self.extra.items():
            is_inside = name in fields and isinstance(value, Mapping)
            document[name] = {**document.get(name, {}), **value} if is_inside else value
        return document


def _selected(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in fields}


def groups_of(request: type[RunRequest]) -> dict[str, type]:
    """Return the dataclass of each group of fields, by the group's name.

    An object that is a field of the request itself is not a group: its name is part of the JSON.
    """
    own = entries(request)
    factories: dict[str, Any] = {
        each.name: each.default_factory for each in dataclasses.fields(request)
    }
    return {
        name: factory
        for name, factory in factories.items()
        if isinstance(factory, type) and dataclasses.is_dataclass(factory) and name not in own
    }


def fields_of(request: type[RunRequest]) -> dict[str, Field]:
    """Return the whole table: each field of the request by its name in JSON."""
    fields = dict(entries(request))
    for holder in groups_of(request).values():
        fields |= entries(holder)
    return fields


FIELDS = fields_of(RunRequest)


def unknown_fields(document: Any, fields: Mapping[str, Field] = FIELDS) -> dict[str, Any]:
    """Return what only a newer version knows of a stored request, also inside of objects."""
    unknown: dict[str, Any] = {}
    for name, value in document.items() if isinstance(document, Mapping) else ():
        if name not in fields:
            unknown[name] = value
        elif inner := unknown_fields(value, fields[name].fields) if fields[name].fields else {}:
            unknown[name] = inner
    return unknown


def mask_unknown(
    document: Mapping[str, Any], mask: str, fields: Mapping[str, Field] = FIELDS
) -> dict[str, Any]:
    """Return a request with `mask` in place of each value that only a newer version knows."""
    masked: dict[str, Any] = {}
    for name, value in document.items():
        if name not in fields:
            masked[name] = mask
        elif fields[name].fields and isinstance(value, Mapping):
            masked[name] = mask_unknown(value, mask, fields[name].fields)
        else:
            masked[name] = value
    return masked
