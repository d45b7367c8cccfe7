"""Replace `<!-- generated: NAME -->` in a page by what the generator of that name writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from docs.generators.module_map import module_map
from docs.generators.planted_guards import planted_guards
from docs.generators.reference.command_line import command_line_reference
from docs.generators.reference.error import error_reference
from docs.generators.reference.python import python_reference
from docs.generators.reference.rest import rest_reference
from docs.generators.reference.spec import spec_reference
from docs.generators.trtllm_options import trtllm_options
from docs.generators.trtllm_precisions import trtllm_precisions

MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)

GENERATORS: Mapping[str, Callable[[], str]] = {
    "command-line": command_line_reference,
    "errors": error_reference,
    "module-map": module_map,
    "planted-guards": planted_guards,
    "python": python_reference,
    "rest": rest_reference,
    "spec": spec_reference,
    "trtllm-options": trtllm_options,
    "trtllm-precisions": trtllm_precisions,
}


def fill_in_markers(page: str) -> str:
    """The page's Markdown with every marker replaced.

    Raises:
        KeyError: no generator has the name that a marker gives.
    """
    return MARKER.sub(lambda marker: GENERATORS[marker.group(1)](), page)
