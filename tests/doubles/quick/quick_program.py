"""STAGE SOURCE OUTPUT SECONDS BEHAVE "KIB SALT": what the quick toolchain runs."""

import json
import os
import random
import runpy
import shutil
import sys
import time
from pathlib import Path

stage, source_argument, output_argument, seconds, behave, size = sys.argv[1:]
source = Path(source_argument)
output = Path(output_argument)

print(f"{stage} begins at {time.time():.6f} in {os.getpid()}", flush=True)
end = time.monotonic() + float(seconds)
while (left := end - time.monotonic()) > 0:
    print(f"progress {1 - left / float(seconds):.2f}", flush=True)
    time.sleep(min(0.2, left))

if behave == "own code":
    # What a conversion script does with `trust_remote_code`: it imports the module that config.json names.
    module = json.loads((source / "config.json").read_text())["auto_map"]["AutoModelForCausalLM"].split(".")[0]
    runpy.run_path(str(source / f"{module}.py"))
if behave == "refuse":
    sys.exit(2)
if behave == "break":
    os.kill(os.getpid(), 9)
if behave == "flood":
    for _ in range(50):
        os.write(1, b"\xff\xfe" * 500_000)  # 50 MB, no UTF-8 and no line's end
if behave == "lie":
    sys.exit(0)

for path in source.iterdir():
    shutil.copy(path, output / path.name)
if stage == "build":
    more = random.Random(size).randbytes(int(float(size.split()[0]) * 1024))
    (output / "rank0.engine").write_bytes(b"engine of " + (source / "model.safetensors").read_bytes()[:1000] + more)
if behave == "truncate":
    (output / "rank0.engine").write_bytes(b"")
print(f"{stage} ends at {time.time():.6f}", flush=True)
