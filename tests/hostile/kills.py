"""Commands that are killed at any moment: nothing looks whole that is not, and the next run makes it whole.

python -m tests.hostile.kills
python -m tests.hostile.kills --only download --count 50
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fixtures.hub_server import Repository
from tests.hostile.campaign import DONE, Case, fingerprint, led_astray, run_in_fork
from tests.hostile.cases.hub_answers import on_the_hub, serve
from tests.hostile.world import SIZE, World, build_world
from tests.training.data.clip_files import draw_frames, write_video

COUNT = 8
REPOSITORY = "sound/model"


@dataclass(frozen=True, slots=True)
class Killed:
    """A command that is killed.

    Attributes:
        case: what runs; its `make` may prepare the folder.
        result: the file or folder that it makes.
        resume: options of the run after a kill.
    """

    case: Case
    result: str
    resume: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What became of the kills.

    Attributes:
        kills: processes that were killed at work.
        faults: what was not as it must be, by the moment of the kill.
    """

    kills: int = 0
    faults: list[str] = field(default_factory=list)


def killed_commands(world: World, address: str) -> dict[str, Killed]:
    """All of them, by name."""
    options = list(SIZE)
    options[options.index("--steps") + 1] = "6"
    generate = world.generate(*options)
    generate[generate.index("out.png")] = "out.webp"
    decode = world.generate("--decode-only", world.latents)
    train = [
        *(
            "--model-dir",
            world.model,
            "--dataset",
            write_clips(world.root / "clips"),
            "--cache-directory",
            "cache",
        ),
        *("--width", "32", "--height", "32", "--num-frames", "5", "--steps", "30", "--rank", "2"),
        *("--save-every", "5", "--output-dir", "out"),
    ]
    download = world.convert(Path(REPOSITORY))
    return {
        "convert": Killed(Case("kills", "convert", lambda folder: world.convert(world.checkpoint.path)), "converted"),
        "quantize": Killed(
            Case("kills", "quantize", lambda folder: world.convert(world.checkpoint.path, "--quantize", "--bits", "8")),
            "converted",
        ),
        "generate": Killed(Case("kills", "generate", lambda folder: generate, "generate"), "out.webp", ("--resume",)),
        "decode": Killed(Case("kills", "decode", lambda folder: decode, "generate"), "out.png"),
        "train": Killed(
            Case("kills", "train", lambda folder: train, "train"), "out/trained.safetensors", ("--resume",)
        ),
        "download": Killed(
            Case("kills", "download", lambda folder: download, environment=on_the_hub(address)), "converted"
        ),
    }  # fmt: skip


def serve_slowly(world: World) -> str:
    """A Hub that takes its time, so that a kill may meet it; returns its address."""

    def slowly(name: str) -> Callable[..., None]:
        content = (world.checkpoint.path / name).read_bytes()

        def answer(handler) -> None:
            begin = int((handler.headers["Range"] or "bytes=0-")[6:-1])
            handler.send_response(206 if begin else 200)
            handler.send_header("Content-Length", str(len(content) - begin))
            handler.end_headers()
            for start in range(begin, len(content), 100_000):
                handler.wfile.write(content[start : start + 100_000])
                handler.wfile.flush()
                time.sleep(0.02)

        return answer

    repository = Repository(world.checkpoint.path)
    repository.answers = {
        name: slowly(name) for name in repository.files if name.endswith((".safetensors", ".pth"))
    }
    return serve({REPOSITORY: repository})


def kill_often(killed: Killed, root: Path, count: int = COUNT, seed: int = 0) -> Tally:
    """Run a command to its end, and then so often that it is killed at a moment, and run again."""
    moments, tally = random.Random(f"{seed} {killed.case.name}"), Tally()
    _run(killed, root / "0")  # fills the system's cache of files
    seconds, code, expected = _run(killed, root / "1")
    if code != DONE:
        tally.faults.append(f"exit code {code} undisturbed: {(root / '1' / 'log').read_text()[-500:]}")
        return tally
    for number in range(2, 4 * count):
        moment, folder = seconds * moments.uniform(0.02, 1.0), root / str(number)
        taken, code, left = _run(killed, folder, kill_after=moment)
        if code == DONE:  # it was faster
            seconds = min(seconds, taken)
            continue
        tally.kills += 1
        tally.faults += [f"{moment:.2f} s: {fault}" for fault in _check(folder, left, expected)]
        _, code, made = _run(replace(killed, case=_resumed(killed)), folder)
        if code != DONE or made != expected:
            text = (folder / "log").read_text(errors="replace")[-300:]
            tally.faults.append(f"{moment:.2f} s: the next run gives exit code {code}, {text!r}")
        if tally.kills == count:
            break
    return tally


def _resumed(killed: Killed) -> Case:
    make = killed.case.make
    return replace(killed.case, make=lambda folder: [*make(folder), *killed.resume])


def _check(folder: Path, left: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    if left and left != expected:
        yield "what is left looks whole"
    yield from led_astray(folder)


def _run(killed: Killed, folder: Path, kill_after: float | None = None) -> tuple[float, int, dict[str, str]]:
    """Seconds, exit code (-9 for a killed process), and what lies under the result's name."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    argv, started = [str(one) for one in killed.case.make(work)], time.perf_counter()
    process = os.fork()
    if not process:
        run_in_fork(killed.case, argv, work, folder / "log")
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    found = {name: what for name, what in fingerprint(work).items() if is_part(name, killed.result)}
    return time.perf_counter() - started, code, found


def is_part(name: str, result: str) -> bool:
    """Whether a file is a result, or lies in it."""
    return name == result or name.startswith(f"{result}/")


def write_clips(folder: Path) -> Path:
    """A dataset of two clips."""
    for number, caption in enumerate(("a cat", "a dog")):
        write_video(folder / f"{number}.mp4", draw_frames(5, seed=number), caption)
    return folder


def import_everything() -> None:
    """Import what the commands import, so that no kill falls into that; nothing is computed here."""
    import ftfy  # noqa: F401
    import imageio_ffmpeg  # noqa: F401
    import tokenizers  # noqa: F401

    import mlx_video.cli.convert
    import mlx_video.cli.generate
    import mlx_video.cli.train  # noqa: F401


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="commands whose name holds this text")
    parser.add_argument("--count", type=int, default=COUNT, help="kills of each, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, default %(default)s")
    args = parser.parse_args(words)
    faulty = 0
    with tempfile.TemporaryDirectory(prefix="kills_") as place:
        root = Path(place)
        os.environ |= {"MLX_VIDEO_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1"}
        world = build_world(root / "world")
        address = serve_slowly(world)
        os.environ |= on_the_hub(address)
        import_everything()
        for name, killed in killed_commands(world, address).items():
            if args.only in name:
                tally = kill_often(killed, root / name, args.count, args.seed)
                faulty += len(tally.faults)
                print(f"{name}: {tally.kills} kills, {len(tally.faults)} not as they must be", flush=True)
                print("".join(f"    {fault}\n" for fault in tally.faults), end="", flush=True)
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
