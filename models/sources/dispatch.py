"""All model sources of one farm behind one door: the reference's scheme picks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract.model_reference import BucketReference, FileReference, HubReference, ModelReference, parse
from enginefarm.contract.resolved_files import ResolvedModel
from models.sources.auxiliary import DataSource
from models.sources.protocol import Source
from models.sources.rejection import refusal


@dataclass(frozen=True)
class Sources:
    """`hub`, `files` and `bucket` answer for `hf:`, `file:` and `s3:` models, `data` for what is read beside a model.

    Raises what a `Source` raises.
    """

    hub: Source[HubReference]
    files: Source[FileReference]
    data: DataSource
    bucket: Source[BucketReference] | None = None  # None: this farm reads no models from S3

    def resolve(self, reference: ModelReference) -> ResolvedModel:
        match reference:
            case HubReference():
                return self.hub.resolve(reference)
            case FileReference():
                return self.files.resolve(reference)
            case BucketReference():
                return self._bucket(reference).resolve(reference)

    def at_hand(self, reference: ModelReference) -> ResolvedModel | None:
        match reference:
            case HubReference():
                return self.hub.at_hand(reference)
            case FileReference():
                return self.files.at_hand(reference)
            case BucketReference():
                return self._bucket(reference).at_hand(reference)

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        match parse(model.reference):
            case HubReference():
                self.hub.fetch(model, destination)
            case FileReference():
                self.files.fetch(model, destination)
            case BucketReference() as reference:
                self._bucket(reference).fetch(model, destination)

    def _bucket(self, reference: BucketReference) -> Source[BucketReference]:
        if self.bucket is None:
            raise refusal(
                reference,
                "model_source_unknown",
                "this farm reads no models from S3",
                expected="hf:org/name[@revision] or file:/absolute/path",
                remedy="ask the operator to configure S3 credentials for models",
            )
        return self.bucket
