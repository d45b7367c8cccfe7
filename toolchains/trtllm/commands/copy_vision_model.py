"""Copy a model of images and text to the checkpoint of its language model: `copy_vision_model.py SOURCE OUTPUT LINK`.

A build makes the engine of the images from the model itself, and gets the checkpoint alone. LINK is a link to SOURCE:
scripts from 0.13 on know LLaVA by the name of the folder (tensorrt_llm/models/llama/model.py @74b324f6).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    source, output, link = map(Path, arguments)
    output.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        # A link in a model could point to any file of the worker.
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, output / path.name)
    link.symlink_to(source.absolute())
    sys.stdout.write(f"{len(list(output.iterdir()))} files of the vision model copied\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
