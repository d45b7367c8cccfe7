"""Draw the pictures of the concepts into docs/pictures: `python -m docs.generators.pictures`.

The pictures are kept in the repository, so that GitHub shows them; a test compares them with what this module draws.
The states of an action are drawn from the table of allowed moves, and a move that the layout lacks is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from docs.generators.svg import Picture
from models.catalogue.states import CLOSED, IN_FLIGHT, MOVES, ActionState

FOLDER = Path(__file__).resolve().parents[1] / "pictures"


def request() -> str:
    """The path of a request, from the submit to the pull."""
    picture = Picture(860, 560, "The path of a request")
    submit = picture.box(20, 20, 200, 46, "POST /v1/builds", "a spec")
    plan = picture.box(20, 100, 200, 80, "plan", "validate, resolve the model,", "normalize, check, make keys")
    refused = picture.box(20, 225, 200, 46, "422 refused", "with every finding", kind="bad")
    commit = picture.box(
        290, 100, 200, 80, "one transaction", "is there an engine? an action", "in flight? else insert both"
    )
    cached = picture.box(590, 40, 250, 40, "200 cached", kind="good")
    joined = picture.box(590, 95, 250, 40, "202 joined", kind="good")
    created = picture.box(590, 150, 250, 40, "202 created", kind="good")
    picture.arrow(submit.side("bottom"), plan.side("top"))
    picture.arrow(plan.side("bottom"), refused.side("top"))
    picture.arrow(plan.side("right"), commit.side("left"))
    picture.arrow(commit.side("right"), cached.side("left"), label="engine exists", label_at=(530, 82), anchor="end")
    picture.arrow(commit.side("right"), joined.side("left"))
    picture.arrow(commit.side("right"), created.side("left"), label="otherwise", label_at=(535, 185))

    message = picture.box(590, 235, 250, 46, "Celery message", "the action's key, nothing else", kind="waiting")
    picture.arrow(created.side("bottom"), message.side("top"), label="after the commit", label_at=(780, 217))
    claim = picture.box(590, 325, 250, 46, "a worker claims the lease", "one conditional UPDATE")
    picture.arrow(message.side("bottom"), claim.side("top"))
    sweep = picture.box(
        290, 280, 200, 80, "sweep, every 2 s", "sends lost messages again,", "queues lost actions again", kind="waiting"
    )
    picture.arrow(sweep.side("right", -20), message.side("left"))
    picture.arrow(claim.side("left"), sweep.side("right", 28), label="lease lost", label_at=(540, 342))

    run = picture.box(590, 415, 250, 63, "run the stage", "fetch, run the programs, check,", "upload under digests")
    publish = picture.box(290, 415, 200, 63, "publish", "one transaction, fenced by", "the attempt's number")
    picture.arrow(claim.side("bottom"), run.side("top"))
    picture.arrow(run.side("left"), publish.side("right"))
    checkpoint = picture.box(20, 390, 200, 46, "checkpoint", "releases builds that wait", kind="good")
    engine = picture.box(20, 470, 200, 63, "engine", "GET /v1/engines/{key},", "then pull: verified files", kind="good")
    picture.arrow(
        publish.side("left", -8),
        (250, 438),
        (250, 413),
        checkpoint.side("right"),
        label="convert",
        label_at=(256, 405),
        anchor="start",
    )
    picture.arrow(
        publish.side("left", 12),
        (250, 458),
        (250, 501),
        engine.side("right"),
        label="build",
        label_at=(256, 497),
        anchor="start",
    )
    return picture.svg()


# The states that an arrow's end stands for.
_GROUPS: Mapping[str, frozenset[ActionState]] = {
    "in flight": IN_FLIGHT,
    "ended": CLOSED,
    **{str(state): frozenset({state}) for state in ActionState},
}
# Source, target, when: every allowed move must be in exactly one of these.
STATE_ARROWS = (
    ("waiting", "queued", "its checkpoint is published"),
    ("queued", "running", "a worker claims it"),
    ("running", "queued", "lease lost, handed back, or tried again"),
    ("queued", "waiting", "its checkpoint was removed"),
    ("running", "waiting", "its checkpoint was removed"),
    ("running", "succeeded", "published"),
    ("in flight", "failed", "its failure, or no tries left"),
    ("in flight", "cancelled", "no build waits for it"),
    ("ended", "waiting", "requested again, checkpoint missing"),
    ("ended", "queued", "requested again, output missing"),
)


def drawn_moves() -> set[tuple[ActionState, ActionState]]:
    """Every (source, target) that the picture of the states shows."""
    moves: set[tuple[ActionState, ActionState]] = set()
    for source_name, target_name, _ in STATE_ARROWS:
        for source in _GROUPS[source_name]:
            for target in _GROUPS[target_name]:
                moves.add((source, target))
    return moves


def states() -> str:
    """The states of an action.

    Raises:
        ValueError: the arrows are not the allowed moves.
    """
    allowed = {(source, target) for target, sources in MOVES.items() for source in sources}
    if drawn_moves() != allowed:
        raise ValueError(f"STATE_ARROWS and MOVES differ: {drawn_moves() ^ allowed}")
    when = {(source, target): text for source, target, text in STATE_ARROWS}
    picture = Picture(900, 430, "The states of an action and its allowed moves")
    in_flight = picture.box(20, 60, 860, 130, "in flight", kind="group")
    ended = picture.box(20, 300, 860, 100, "ended", kind="group")
    waiting = picture.box(40, 100, 140, 50, "waiting", "for a checkpoint", kind="waiting")
    queued = picture.box(380, 100, 140, 50, "queued", kind="waiting")
    running = picture.box(720, 100, 140, 50, "running", "leased", kind="step")
    succeeded = picture.box(720, 330, 140, 50, "succeeded", kind="good")
    failed = picture.box(260, 330, 140, 50, "failed", kind="bad")
    cancelled = picture.box(450, 330, 140, 50, "cancelled", kind="bad")

    picture.arrow(
        waiting.side("right", -10), queued.side("left", -10), label=when["waiting", "queued"], label_at=(280, 108)
    )
    picture.arrow(
        queued.side("left", 10), waiting.side("right", 10), label=when["queued", "waiting"], label_at=(280, 150)
    )
    picture.arrow(
        queued.side("right", -10), running.side("left", -10), label=when["queued", "running"], label_at=(620, 108)
    )
    picture.arrow(running.side("left", 10), queued.side("right", 10))
    picture.text(620, 150, "lease lost, handed")
    picture.text(620, 166, "back, or tried again")
    picture.arrow(
        running.side("top"),
        (790, 35),
        (110, 35),
        waiting.side("top"),
        label=when["running", "waiting"],
        label_at=(430, 28),
    )
    picture.arrow(
        running.side("bottom"), succeeded.side("top"), label=when["running", "succeeded"], label_at=(828, 250)
    )
    picture.arrow(
        (330, in_flight.y + in_flight.height),
        failed.side("top"),
        label=when["in flight", "failed"],
        label_at=(338, 232),
        anchor="start",
    )
    picture.arrow(
        (520, in_flight.y + in_flight.height),
        cancelled.side("top"),
        label=when["in flight", "cancelled"],
        label_at=(528, 262),
        anchor="start",
    )
    picture.arrow((100, ended.y), (100, in_flight.y + in_flight.height))
    picture.text(112, 232, "requested again:", anchor="start")
    picture.text(112, 249, "waits if its checkpoint", anchor="start")
    picture.text(112, 266, "is missing, else queued", anchor="start")
    return picture.svg()


def keys() -> str:
    """What enters the two keys."""
    picture = Picture(860, 400, "What enters the key of a checkpoint and the key of an engine")
    picture.box(20, 20, 400, 360, "enginefarm.convert/1 or /2", kind="group")
    picture.box(440, 20, 400, 360, "enginefarm.build/1", kind="group")
    convert_parts = (
        ("toolchain", "name and version"),
        ("model", "commit or digest of its files, no path"),
        ("precision", "dtype, quantization, KV cache"),
        ("parallelism", "tp, pp, cp"),
        ("options of convert", "as normalized"),
        ("calibration data", "only if something is calibrated"),
        ("SM", "only of weights that are laid out for it (version 2)"),
    )
    for number, lines in enumerate(convert_parts):
        picture.box(40, 46 + number * 39, 360, 36, *lines, kind="note")
    convert_key = picture.box(40, 325, 360, 40, "SHA-256: convert key, names a checkpoint", kind="good")
    first = picture.box(460, 50, 360, 44, "convert key", "everything on the left side", kind="good")
    build_parts = (
        ("toolchain", "name and version"),
        ("limits", "batch, lengths, beams, tokens in flight"),
        ("options of build", "as normalized"),
        ("platform", "GPU, SM, memory, MIG, ECC, CUDA, driver branch"),
    )
    for number, lines in enumerate(build_parts):
        picture.box(460, 106 + number * 50, 360, 42, *lines, kind="note")
    picture.box(460, 325, 360, 40, "SHA-256: key, names an engine", kind="good")
    picture.arrow(convert_key.side("right"), (430, 345), (430, 72), first.side("left"))
    return picture.svg()


def lease() -> str:
    """A lease from claim to loss, and the next worker's attempt, on a line of time."""
    picture = Picture(860, 340, "A lease: renewals, the worker's own limit, and the fencing number")
    start_x, pixels_per_second = 110, 24
    last_renewal, lease_seconds, limit_seconds = 6, 16, 9.6
    expiry = last_renewal + lease_seconds

    def at(second: float) -> float:
        return start_x + second * pixels_per_second

    picture.text(20, 64, "worker A", bold=True, anchor="start")
    picture.text(20, 82, "attempt 1", anchor="start")
    picture.text(20, 224, "worker B", bold=True, anchor="start")
    picture.text(20, 242, "attempt 2", anchor="start")
    limit = last_renewal + limit_seconds
    picture.box(at(0), 45, at(last_renewal) - at(0), 44, "runs its stage")
    picture.box(
        at(last_renewal),
        45,
        at(limit) - at(last_renewal),
        44,
        "cannot renew",
        "runs on for 60 % of the lease",
        kind="waiting",
    )
    picture.box(at(limit), 45, at(expiry) - at(limit), 44, "has stopped", "its programs", kind="bad")
    for second in range(0, last_renewal + 1, 2):
        picture.line((at(second), 95), (at(second), 108), color="#3b6ea5", width=2)
    picture.text(at(3), 124, "renewals, every 2 s")
    picture.line((at(last_renewal), 136), (at(expiry), 136), color="#b58a2b", width=2)
    picture.text(at(last_renewal + 8), 153, "the lease: 16 s after the last renewal")
    picture.line((at(expiry), 40), (at(expiry), 270), dashed=True)
    picture.text(at(expiry), 32, "lease expires")
    sweep = picture.box(at(expiry) + 8, 165, 140, 40, "sweep queues it", "within 2 s", kind="waiting")
    claim = picture.box(at(expiry) + 8, 222, 140, 40, "claims and runs")
    picture.arrow(sweep.side("bottom"), claim.side("top"))
    picture.box(
        110,
        285,
        730,
        36,
        "A publishes too late: its UPDATE requires attempt 1, the row has 2, no row changes. Fenced.",
        kind="bad",
    )
    return picture.svg()


def storage() -> str:
    """Names, manifests and blobs, and how bytes are removed."""
    picture = Picture(860, 450, "Engines name manifests, manifests name blobs; removal in two phases")
    picture.box(20, 20, 560, 170, "catalogue (rows)", kind="group")
    picture.box(20, 220, 560, 90, "store (bytes)", kind="group")
    engine_a = picture.box(40, 50, 150, 46, "engine", "key 1e91…", kind="good")
    engine_b = picture.box(40, 126, 150, 46, "engine", "key 77b0…", kind="good")
    manifest_a = picture.box(230, 50, 150, 46, "manifest", "sha256:9c…")
    manifest_b = picture.box(230, 126, 150, 46, "manifest", "sha256:e4…")
    rows = picture.box(420, 65, 140, 92, "blob rows", "digest, size,", "marked at …")
    picture.arrow(engine_a.side("right"), manifest_a.side("left"))
    picture.arrow(engine_b.side("right"), manifest_b.side("left"))
    picture.arrow(manifest_a.side("right"), rows.side("left", -20))
    picture.arrow(manifest_b.side("right"), rows.side("left", 20))
    blobs = (("ab", "rank0.engine"), ("3f", "config.json"), ("77", "tokenizer.json"), ("c2", "rank0.engine"))
    for number, (digest, name) in enumerate(blobs):
        picture.box(40 + number * 133, 246, 120, 46, f"sha256 {digest}…", name, kind="note")
    picture.arrow(rows.side("bottom"), (490, 246))
    picture.text(300, 212, "equal files are stored once: both engines use the same tokenizer.json")
    picture.text(720, 38, "removal", bold=True)
    steps = (
        ("1. mark the engine", "it is still served;", "a pull or a pin keeps it"),
        ("2. after a grace: remove", "the engine, then its manifest"),
        ("3. mark unused blobs", "nothing refers to them"),
        ("4. after a grace: delete", "lock the row, look again,", "delete the bytes, then the row"),
    )
    y = 52
    boxes = []
    for lines in steps:
        height = 22 + 17 * len(lines)
        boxes.append(picture.box(610, y, 230, height, *lines, kind="bad" if lines[0].startswith("4") else "waiting"))
        y += height + 22
    for upper, lower in pairwise(boxes):
        picture.arrow(upper.side("bottom"), lower.side("top"))
    picture.box(
        20,
        386,
        820,
        56,
        "Publishing goes the other way: bytes first, name last.",
        "Upload, check, then one transaction locks the blob rows, looks into the store, and writes the names.",
        kind="note",
    )
    return picture.svg()


def packages() -> str:
    """Which package imports which."""
    picture = Picture(860, 300, "The packages and what they import")
    api = picture.box(120, 20, 280, 52, "api", "control plane: routes, planning, sweep")
    workers = picture.box(460, 20, 280, 52, "workers", "the task, its lease, the supervised program")
    models = picture.box(120, 122, 280, 52, "models", "catalogue, store, queue, model sources")
    toolchains = picture.box(460, 122, 280, 52, "toolchains", "what each compiler accepts and runs")
    contract = picture.box(
        120, 224, 620, 52, "enginefarm", "contract, client, command line: what a serving node installs", kind="good"
    )
    for upper in (api, workers):
        for lower in (models, toolchains):
            picture.arrow(upper.side("bottom"), lower.side("top"))
    picture.arrow(models.side("bottom"), (260, contract.y))
    picture.arrow(toolchains.side("bottom"), (600, contract.y))
    return picture.svg()


PICTURES: Mapping[str, Callable[[], str]] = {
    "keys": keys,
    "lease": lease,
    "packages": packages,
    "request": request,
    "states": states,
    "storage": storage,
}


def main() -> None:
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
