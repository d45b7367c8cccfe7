"""Programs catch errors by class and branch on codes: names, parents and codes of the error tree do not change."""

from __future__ import annotations

import inspect

from enginefarm.contract import errors
from enginefarm.contract.errors import EnginefarmError

TREE = {
    "EnginefarmError": ("Exception", "error", 500, 1),
    "CallerError": ("EnginefarmError", "invalid_request", 400, 2),
    "InvalidSpec": ("CallerError", "invalid_spec", 422, 2),
    "InvalidRequest": ("CallerError", "invalid_request", 400, 2),
    "ModelUnavailable": ("CallerError", "model_unavailable", 422, 2),
    "Unauthenticated": ("CallerError", "unauthenticated", 401, 3),
    "Forbidden": ("CallerError", "forbidden", 403, 3),
    "CrossOrigin": ("CallerError", "cross_origin", 403, 3),
    "Misdirected": ("CallerError", "misdirected", 421, 3),
    "Proxied": ("CallerError", "proxied", 403, 3),
    "TooManyFailedSignIns": ("CallerError", "too_many_failed_sign_ins", 429, 3),
    "NotFound": ("CallerError", "not_found", 404, 4),
    "Gone": ("CallerError", "gone", 410, 4),
    "Conflict": ("CallerError", "conflict", 409, 2),
    "FarmError": ("EnginefarmError", "unavailable", 503, 5),
    "StoreUnavailable": ("FarmError", "store_unavailable", 503, 5),
    "DatabaseUnavailable": ("FarmError", "database_unavailable", 503, 5),
    "BrokerUnavailable": ("FarmError", "broker_unavailable", 503, 5),
    "SourceUnavailable": ("FarmError", "source_unavailable", 503, 5),
    "Busy": ("FarmError", "busy", 429, 5),
    "IntegrityError": ("EnginefarmError", "integrity", 502, 6),
    "PlatformMismatch": ("EnginefarmError", "platform_mismatch", 409, 7),
    "BuildFailed": ("EnginefarmError", "build_failed", 409, 8),
    "WaitTimedOut": ("EnginefarmError", "wait_timed_out", 504, 9),
}


def test_the_error_tree_keeps_its_names_parents_codes_and_statuses() -> None:
    actual = {}
    for name, member in inspect.getmembers(errors, inspect.isclass):
        if issubclass(member, EnginefarmError):
            actual[name] = (member.__bases__[0].__name__, member.code, member.status, member.exit_code)
    assert actual == TREE


def test_the_picture_of_the_error_tree_names_every_class() -> None:
    for name in TREE:
        assert f" {name} " in str(errors.__doc__).replace("\n", " \n")
