"""All model sources of a farm as one: the scheme of a reference picks the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.model.reference import BucketReference, FileReference, HubReference, ModelReference, parse
from enginefarm.contract.model.resolved_files import ResolvedModel
from models.sources.auxiliary import AuxiliarySource
from models.sources.protocol import Source
from models.sources.rejection import refusal


@dataclass(frozen=True)
class Sources:
    """The sources of `hf:`, `file:` and `s3:` models, and of auxiliary inputs. Methods raise as `Source` says."""

    hub: Source[HubReference]
    files: Source[FileReference]
    auxiliary: AuxiliarySource
    bucket: Source[BucketReference] | None = None  # None: this farm reads no models from S3

    def resolve_model(self, reference: ModelReference) -> ResolvedModel:
        """See `Source.resolve_model`."""
        # No default case, here and below: mypy reports a scheme that is forgotten.
        match reference:
            case HubReference():
                return self.hub.resolve_model(reference)
            case FileReference():
                return self.files.resolve_model(reference)
            case BucketReference():
                return self._require_bucket(reference).resolve_model(reference)

    def cached_model(self, reference: ModelReference) -> ResolvedModel | None:
        """See `Source.cached_model`."""
        match reference:
            case HubReference():
                return self.hub.cached_model(reference)
            case FileReference():
                return self.files.cached_model(reference)
            case BucketReference():
                return self._require_bucket(reference).cached_model(reference)

    def fetch(self, model: ResolvedModel, destination: Path, watch: Watch = ignore_progress) -> None:
        """See `Source.fetch`."""
        match parse(model.reference):
            case HubReference():
                self.hub.fetch(model, destination, watch)
            case FileReference():
                self.files.fetch(model, destination, watch)
            case BucketReference() as reference:
                self._require_bucket(reference).fetch(model, destination, watch)

    def _require_bucket(self, reference: BucketReference) -> Source[BucketReference]:
        if self.bucket is None:
            raise refusal(
                reference,
                "model_source_unknown",
                "this farm reads no models from S3",
                expected="hf:org/name[@revision] or file:/absolute/path",
                remedy="ask the operator to configure S3 credentials for models",
            )
        return self.bucket
