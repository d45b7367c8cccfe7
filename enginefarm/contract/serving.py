"""How an engine is started, in what, and how its files are laid out for a server: said by its toolchain.

A build leaves this as `serving.json` beside the engine, so that its bytes are in the manifest and checked like all
others. In launch lines and in the files of a layout, `{engine}` stands for the directory that holds the engine, and
`{layout}` for the directory that a layout was made in.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.manifest import RelativePath

FILE = "serving.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Image(_Part):
    """A container image in which the engine loads."""

    image: str = Field(examples=["nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"])
    has: dict[str, str] = Field(default_factory=dict, description="versions that its publisher states")
    source: str = Field(description="where that is stated")


class Launch(_Part):
    what: str = Field(description="what this starts, for a person")
    argv: list[str] = Field(description="no shell reads this: one string, one argument")


class Layout(_Part):
    """A directory tree that a server reads: the engine in one place of it, and files around it."""

    engine: RelativePath = Field(description="where the engine's own files go", examples=["tensorrt_llm/1"])
    files: dict[RelativePath, str] = Field(description="content by path")
    folders: list[RelativePath] = Field(default_factory=list, description="that must be there, though empty")
    notes: list[str] = Field(default_factory=list, description="what whoever serves it should know")


class Serving(_Part):
    world_size: Annotated[int, Field(ge=1, description="processes, each with a GPU of its own where there are GPUs")]
    ranks: dict[str, int] = Field(description="how the world is divided", examples=[{"tp": 2, "pp": 1, "cp": 1}])
    launch: dict[str, Launch]
    images: list[Image] = Field(default_factory=list)
    layouts: dict[str, Layout] = Field(default_factory=dict)
    without: dict[str, str] = Field(default_factory=dict, description="layouts that it has not, and why")

    def summary(self) -> dict[str, Any]:
        """Everything but the files of the layouts: what the catalogue keeps."""
        return self.model_dump(mode="json", exclude={"layouts"}) | {
            "layouts": {name: {"engine": layout.engine} for name, layout in self.layouts.items()}
        }
