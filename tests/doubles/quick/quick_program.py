"""STAGE SOURCE OUTPUT SECONDS BEHAVE "KIB SALT": what the quick toolchain runs.

Hundreds of tests run it, so it imports only what the stage needs: all at once would take longer than the rest.
"""

import os
import sys
import time

stage, source_argument, output_argument, seconds, behave, size = sys.argv[1:]

print(f"{stage} begins at {time.time():.6f} in {os.getpid()}", flush=True)
end = time.monotonic() + float(seconds)
while (left := end - time.monotonic()) > 0:
    print(f"progress {1 - left / float(seconds):.2f}", flush=True)
    time.sleep(min(0.2, left))

if behave:
    import json
    import runpy
    import stat
    from pathlib import Path

    source = Path(source_argument)
    output = Path(output_argument)
    trap = output / "trap"
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

for name in os.listdir(source_argument):
    with open(f"{source_argument}/{name}", "rb") as original, open(f"{output_argument}/{name}", "wb") as copy:
        while piece := original.read(1 << 20):
            copy.write(piece)
if stage == "build":
    with open(f"{source_argument}/model.safetensors", "rb") as weights:
        engine = b"engine of " + weights.read(1000)
    kib = float(size.split()[0])
    if kib:
        import random

        engine += random.Random(size).randbytes(int(kib * 1024))
    with open(f"{output_argument}/rank0.engine", "wb") as file:
        file.write(engine)

# What a hostile program leaves in its output. `outside` is a file that it may not publish.
trap_name, separator, outside = behave.removeprefix("trap ").partition(" ")
match trap_name if behave.startswith("trap ") else "":
    case "pipe":
        os.mkfifo(trap)
    case "pipe-as-engine":
        (output / "rank0.engine").unlink()
        os.mkfifo(output / "rank0.engine")
    case "socket":
        os.mknod(trap, 0o600 | stat.S_IFSOCK)
    case "device":
        try:
            os.mknod(trap, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        except OSError:  # in a sandbox
            os.mkfifo(trap)
    case "link":
        trap.symlink_to(outside)
    case "hard-link":
        try:
            trap.hardlink_to(outside)
        except OSError:  # in a sandbox, which has no such file
            trap.symlink_to(outside)
    case "link-as-engine":
        (output / "rank0.engine").unlink()
        (output / "rank0.engine").symlink_to(outside)
    case "folder-link":
        trap.symlink_to(Path(outside).parent, target_is_directory=True)
    case "output-link":
        try:
            output.rename(output.parent / "scratch" / "moved")
            output.symlink_to(Path(outside).parent, target_is_directory=True)
        except OSError:  # in a sandbox, where the output is a mount point
            trap.symlink_to(outside)
    case "sparse":
        with trap.open("wb") as stream:
            for exponent in (63, 43, 40):  # what the file system allows
                try:
                    stream.truncate(2**exponent - 1)
                    break
                except OSError:
                    continue
    case "many":
        trap.mkdir()
        for number in range(int(outside)):
            (trap / str(number)).touch()
    case "deep":
        descriptor = os.open(output, os.O_RDONLY)
        for _ in range(int(outside)):
            os.mkdir("trap", dir_fd=descriptor)
            below = os.open("trap", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    case "name":
        (output / "trap\x1b[2J\n").touch()
    case "not-utf8":
        (output / os.fsdecode(b"trap\xff")).touch()
    case "swapped":  # for as long as the sandbox lets it live
        if os.fork() == 0:
            os.setsid()
            for handle in (0, 1, 2):
                os.close(handle)
            while True:
                trap.unlink(missing_ok=True)
                trap.symlink_to(outside)
                trap.unlink(missing_ok=True)
                trap.write_bytes(b"harmless")
    case "log":  # where the worker kept its log once
        for log in (output.parent / "log", output.parent / "scratch" / "log"):
            try:
                log.unlink(missing_ok=True)
                log.symlink_to(outside)
            except OSError:
                continue
    case "printed":
        os.write(1, b"progress nan\nprogress \nprogress 0.5 \x00\xff\x1b]0;evil\x07\n" * 3)
        time.sleep(2)  # for a heartbeat

if behave == "truncate":
    (output / "rank0.engine").write_bytes(b"")
print(f"{stage} ends at {time.time():.6f}", flush=True)
