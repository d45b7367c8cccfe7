"""Bind the record of an engine to its key: whatever the key determines must agree with it.

A key is the SHA-256 of the build document, which names the key of the checkpoint document. Both documents are in the
record, so a reader can recompute them. A farm, a mirror or a proxy that puts other limits, another platform or another
model into a record under the right key is found out without any signature.

The key does not determine the bytes (`manifest`), nor what is behind the path of a `file:` or `s3:` model. Only a
signature binds those: see `enginefarm.trust.signature_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rfc8785 import CanonicalizationError

from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.key import BUILD, CONVERT_VERSIONS, Document, Key, key_of
from enginefarm.contract.model import reference as model_reference
from enginefarm.wire.bodies import Engine


def require_requested(engine: Engine, key: Key) -> None:
    """Return if `engine` is the engine `key`, and its record agrees with that key.

    Raises:
        IntegrityError: it is another engine, or its record was changed.
    """
    if engine.key != key:
        raise IntegrityError(
            f"asked for engine {key[:12]}, got engine {engine.key[:12]}: do not trust the farm or mirror that answered"
        )
    require_bound(engine)


def require_bound(engine: Engine) -> None:
    """Return if the record of `engine` agrees with its key.

    Raises:
        IntegrityError: a document does not hash to its key, or a field of the record is not what a document says.
    """
    require_key(engine.key, "document", engine.document, engine.key)
    # A farm of before 0.1 does not state the checkpoint's document.
    if engine.checkpoint_document:
        require_key(engine.key, "checkpoint_document", engine.checkpoint_document, engine.document.get("convert"))
    # The fields of a document of another version mean something else. Its hash was compared all the same.
    if engine.document.get("document") != BUILD:
        return
    for field, stated, in_key in _bound_fields(engine):
        if stated != in_key:
            raise IntegrityError(
                f"engine {engine.key[:12]}: {field} is {str(stated)[:100]!r}, but its key was made with "
                f"{str(in_key)[:100]!r}: do not trust the farm or mirror that answered"
            )


def require_key(engine_key: Key, name: str, document: Document, expected: object) -> None:
    """Return if `document`, called `name` in error texts, hashes to the key `expected`.

    Raises:
        IntegrityError: it has another key, or no canonical form.
    """
    engine = f"engine {engine_key[:12]}"
    try:
        actual = key_of(document)
    except (CanonicalizationError, RecursionError) as error:
        raise IntegrityError(f"{engine}: {name} has no canonical form: {error}") from error
    if actual != expected:
        raise IntegrityError(f"{engine}: {name} hashes to {actual}, expected {str(expected)[:64]}: it was changed")


def _bound_fields(engine: Engine) -> Iterator[tuple[str, object, object]]:
    """Yield (field of the record, its value, the value in the key's documents) for every field that both have."""
    document: Any = engine.document
    spec: Any = engine.spec
    yield "toolchain", {"name": engine.toolchain, "version": engine.version}, document.get("toolchain")
    yield "bound_to", engine.bound_to, document.get("platform")
    # What a node compares itself with are the fields of `platform`: they are the bound ones, or the engine would seem
    # to fit where it does not.
    yield "platform", engine.platform.bound(frozenset(engine.bound_to), engine.driver_binding), engine.bound_to
    yield "model", engine.model, spec.get("model")
    yield from _equal_section("limits", spec, document)
    checkpoint: Any = engine.checkpoint_document
    if checkpoint.get("document") not in CONVERT_VERSIONS:
        return
    # Weights that are laid out for one SM are garbage on another, and TensorRT-LLM does not notice.
    for field, value in _mapping(checkpoint, "platform").items():
        yield f"checkpoint_document.platform.{field}", value, _mapping(document, "platform").get(field)
    yield from _equal_section("precision", spec, checkpoint)
    yield from _equal_section("parallelism", spec, checkpoint)
    in_key = {**checkpoint.get("options", {}), **document.get("options", {})}
    yield "spec.options", sorted(_mapping(spec, "options")), sorted(in_key)
    for name, value in _mapping(spec, "options").items():
        yield f"spec.options.{name}", _with_identities(value, in_key[name]), in_key[name]
    yield "model", _with_identities(engine.model, checkpoint.get("model")), checkpoint.get("model")


def _equal_section(name: str, spec: Any, document: Any) -> Iterator[tuple[str, object, object]]:
    stated = _mapping(spec, name)
    for field, value in _mapping(document, name).items():
        yield f"spec.{name}.{field}", stated.get(field), value


def _mapping(document: Any, name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def second_models(engine: Engine) -> set[str]:
    """The names of the options by which `engine` was built from more models than its base model."""
    in_key: dict[str, Any] = {}
    for document in (engine.checkpoint_document, engine.document):
        in_key |= _mapping(document, "options")
    names = set()
    for name, value in _mapping(engine.spec, "options").items():
        # In the documents, the identity of a model stands in the place of its reference.
        if value != in_key.get(name) and value is not None:
            names.add(name)
    return names


def _with_identities(stated: Any, in_key: Any) -> Any:
    """Return `stated` with each model reference replaced by the identity that stands for it in the key.

    A reference to a commit of a hub is replaced only by the identity of that commit. What a folder or a bucket has is
    not in its reference.
    """
    if isinstance(stated, list) and isinstance(in_key, list) and len(stated) == len(in_key):
        return [_with_identities(one, other) for one, other in zip(stated, in_key, strict=True)]
    if not (isinstance(stated, str) and isinstance(in_key, dict) and "source" in in_key):
        return stated
    try:
        reference = model_reference.parse(stated)
    except ValueError:
        return stated
    if isinstance(reference, model_reference.HubReference):
        same = (reference.repo, reference.revision) == (in_key.get("repo"), in_key.get("commit"))
        return in_key if same else stated
    # `hf` identities name a repository, which a folder or a bucket is not.
    return stated if "repo" in in_key else in_key
