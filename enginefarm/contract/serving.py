"""How an engine is served: the commands that start it, container images, and directory layouts of servers.

The toolchain writes this as `serving.json` into the engine's directory, so that it is in the manifest and is verified
like every other file. In commands and in files of a layout, `{engine}` stands for the engine's directory, and
`{layout}` for the directory that contains the layout.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.manifest import RelativePath

FILE = "serving.json"


class _Section(BaseModel):
    # Fields of a newer toolchain are dropped: a node must be able to serve an engine of a newer farm.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Image(_Section):
    """A container image in which the engine loads."""

    image: str = Field(examples=["nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"])
    has: dict[str, str] = Field(default_factory=dict, description="versions that its publisher states")
    source: str = Field(description="where that is stated")


class Launch(_Section):
    """A command that starts a server or runs the engine."""

    what: str = Field(description="what this starts, for a person")
    argv: list[str] = Field(description="no shell reads this: one string, one argument")


class Layout(_Section):
    """A directory tree that a server reads: the engine's files in one folder of it, and configuration around them."""

    engine: RelativePath = Field(description="where the engine's own files go", examples=["tensorrt_llm/1"])
    files: dict[RelativePath, str] = Field(description="content by path")
    folders: list[RelativePath] = Field(default_factory=list, description="empty folders that the server expects")
    notes: list[str] = Field(default_factory=list, description="what the operator of the server should know")


class Serving(_Section):
    """The content of `serving.json`."""

    world_size: Annotated[int, Field(ge=1, description="processes, each with a GPU of its own where there are GPUs")]
    ranks: dict[str, int] = Field(description="how the ranks divide the model", examples=[{"tp": 2, "pp": 1, "cp": 1}])
    launch: dict[str, Launch]
    images: list[Image] = Field(default_factory=list)
    layouts: dict[str, Layout] = Field(default_factory=dict)
    without: dict[str, str] = Field(
        default_factory=dict, description="layouts that this engine cannot have, with the reason"
    )

    def summary(self) -> dict[str, Any]:
        """Return what the catalogue stores: everything but the layouts' files, which can be large."""
        layouts = {}
        for name, layout in self.layouts.items():
            layouts[name] = {"engine": layout.engine}
        return self.model_dump(mode="json", exclude={"layouts"}) | {"layouts": layouts}
